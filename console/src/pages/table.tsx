import { useEffect } from "preact/hooks";
import { ApiError, get, isMissing, sinkPath } from "../api/client";
import { may } from "../state/rights";
import { useLoaded } from "../ui/hooks";
import { Button, clipped, Empty, ErrorBox, Loading, NotAllowed } from "../ui/parts";

const ROWS = 20;
const CELL_CHARS = 120;

export interface Preview {
  columns: string[];
  rows: (string | null)[][];
}

interface Shown {
  sourceId: string;
  sinkId: string;
  /** Changes when the table has other rows. */
  revision: number;
}

/** The first rows of the table, if its target can be read and the token may see records. */
export function TableRows(props: Shown) {
  return may("tail") ? <Rows {...props} /> : <NotAllowed title="Rows are not shown" right="tail" />;
}

function Rows({ sourceId, sinkId, revision }: Shown) {
  const found = useLoaded(`${sourceId}/${sinkId}`, async (signal) => {
    try {
      return await get<Preview>(`${sinkPath(sourceId, sinkId, "table", "rows")}?limit=${ROWS}`, signal);
    } catch (error) {
      if (error instanceof ApiError && error.code === "tableNotFound") return { columns: [], rows: [] };
      if (isMissing(error) || (error instanceof ApiError && error.status === 501)) return null;
      throw error;
    }
  });
  useEffect(() => {
    if (!found.isLoading) found.reload();
  }, [revision]);
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (found.isLoading && !found.data) return <Loading what="rows" />;
  if (!found.data) return <p class="quiet">The console can't show rows of this type of table.</p>;
  const { columns, rows } = found.data;
  if (!rows.length)
    return (
      <Empty title="The table has no row yet">
        <p>Rows appear after the first import.</p>
      </Empty>
    );
  return (
    <>
      <div class="scroll" tabIndex={0} role="group" aria-label="Rows">
        <table class="grid">
          <thead>
            <tr>
              {columns.map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, place) => (
              <tr key={place}>
                {columns.map((name, index) => (
                  <td key={name} class="mono">
                    {row[index] === null || row[index] === undefined ? <span class="quiet">NULL</span> : clipped(row[index], CELL_CHARS)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="actions start">
        <Button kind="quiet" onClick={found.reload}>
          Reload
        </Button>
      </div>
    </>
  );
}
