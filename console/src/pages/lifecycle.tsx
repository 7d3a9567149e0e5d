/** Parts shared by sources and sinks: versions, settings, and changes with a confirmation. */

import { useEffect, useState } from "preact/hooks";
import { errorText, get } from "../api/client";
import type { Entity, Page, Setting, Version } from "../api/types";
import { diff, nearChanges } from "../lib/diff";
import { choicesOf, rulesText } from "../lib/format";
import { load } from "../state/data";
import { lack, may } from "../state/rights";
import { change } from "../state/tasks";
import { useLoaded } from "../ui/hooks";
import { type Ask, Button, Confirm, ErrorBox, Field, Loading, NoMatch, Time } from "../ui/parts";

export const byWhom = (by: { type: string; userName?: string; tokenDesc?: string }): string =>
  by.userName || by.tokenDesc || by.type;

interface VersionContent extends Version {
  content?: Record<string, unknown>;
}

const asText = (value: unknown) => JSON.stringify(value, null, 2) ?? "";

function Diff({ path, from, to }: { path: string; from: number; to: number }) {
  const read = async (number: number, signal: AbortSignal) =>
    get<VersionContent>(`${path}/versions/${number}?content=true`, signal);
  const found = useLoaded(`${path}/${from}/${to}`, (signal) =>
    Promise.all([from ? read(from, signal) : Promise.resolve({ content: {} } as VersionContent), read(to, signal)]),
  );
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="the difference" />;
  const [before, after] = found.data;
  if (!after.content) return <p class="quiet">This API doesn't show the content of versions.</p>;
  const lines = diff(from ? asText(before.content) : "", asText(after.content));
  const isSame = lines.every((line) => line.kind === "same");
  return (
    <pre class="diff" tabIndex={0} aria-label={`Difference between versions ${from} and ${to}`}>
      {isSame && <span class="quiet">The content is the same.</span>}
      {!isSame &&
        nearChanges(lines).map((line, place) => (
          <span key={place} data-kind={line.kind}>
            {line.kind === "added" ? "+ " : line.kind === "removed" ? "− " : "  "}
            {line.text}
            {"\n"}
          </span>
        ))}
    </pre>
  );
}

/** :param path: path of the source or sink. */
export function Versions({ path, entity }: { path: string; entity: Entity }) {
  const current = entity.version.number;
  const found = useLoaded(`${path}/versions/${current}`, async (signal) => {
    const versions: Version[] = [];
    let after = "";
    for (;;) {
      const answer = await get<{ versions: Version[]; page: Page }>(`${path}/versions?limit=100&afterId=${after}`, signal);
      versions.push(...answer.versions);
      after = answer.page.lastId;
      if (answer.versions.length < 100) return versions.sort((a, b) => b.number - a.number);
    }
  });
  const [opened, setOpened] = useState<number | null>(null);
  const [ask, setAsk] = useState<Ask | null>(null);
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="versions" />;
  const rollBack = (version: Version) =>
    setAsk({
      title: `Roll back to version ${version.number}?`,
      text: <p>Its content becomes a new version, {current + 1}. Nothing is lost: the present version stays in the list.</p>,
      action: "Roll back",
      act: async () => {
        await change(`Roll back to version ${version.number}`, "PUT", `${path}/versions/${version.number}/rollback`);
        await load();
      },
    });
  return (
    <>
      <ol class="versions panel">
        {found.data.map((version) => (
          <li key={version.number}>
            <div class="version">
              <span class="nums strong">{version.number}</span>
              <span>
                {version.description || "No description"}
                <span class="quiet">
                  {" "}
                  · {byWhom(version.by)}, <Time at={version.at} />
                </span>
              </span>
              <span class="actions">
                <Button
                  kind="quiet"
                  aria-expanded={opened === version.number}
                  onClick={() => setOpened(opened === version.number ? null : version.number)}
                >
                  What changed
                </Button>
                {version.number !== current ? (
                  <Button kind="quiet" needs="write" onClick={() => rollBack(version)}>
                    Roll back
                  </Button>
                ) : (
                  <span class="quiet">present</span>
                )}
              </span>
            </div>
            {opened === version.number && <Diff path={path} from={version.number - 1} to={version.number} />}
          </li>
        ))}
      </ol>
      {ask && <Confirm ask={ask} onClose={() => setAsk(null)} />}
    </>
  );
}

const shown = (value: unknown): string =>
  Array.isArray(value) ? value.join(", ") : value === null || value === undefined ? "" : String(value);

/** Return the JSON value of the input. Throws if it doesn't have the setting's type. */
export function settingValue(type: Setting["type"], text: string): unknown {
  if (type === "bool") return text === "true";
  if (type === "[]string") return text.split(",").map((part) => part.trim()).filter(Boolean);
  if (type === "string") return text;
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value) || (type === "int" && !Number.isInteger(value)))
    throw new Error(type === "int" ? "This is not a whole number." : "This is not a number.");
  return value;
}

function SettingRow({ path, setting, onChanged }: { path: string; setting: Setting; onChanged: () => void }) {
  const [text, setText] = useState(shown(setting.value));
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => setText(shown(setting.value)), [shown(setting.value)]);
  const isChanged = text !== shown(setting.value);
  const put = async (value: unknown, label: string) => {
    setBusy(true);
    setError(null);
    try {
      await change(label, "PATCH", `${path}/settings`, { settings: [{ key: setting.key, value }] });
      onChanged();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const save = (event: Event) => {
    event.preventDefault();
    try {
      void put(settingValue(setting.type, text), `Set ${setting.key}`);
    } catch (problem) {
      setError(problem);
    }
  };
  const isFixed = setting.protected || !may("write");
  const range = rulesText(setting.validation);
  const choices = setting.type === "bool" ? ["true", "false"] : choicesOf(setting.validation);
  const hint = (
    <>
      {setting.description} Default: <code>{shown(setting.defaultValue) || "(empty)"}</code>
      {range ? ` · ${range}` : ""}
    </>
  );
  return (
    <form class="setting" onSubmit={save} data-own={setting.overwritten}>
      <Field label={setting.key} hint={hint} error={error ? errorText(error) : null}>
        {(attributes) =>
          choices.length ? (
            <select {...attributes} disabled={isFixed} value={text} onChange={(event) => setText(event.currentTarget.value)}>
              {/* A value from another version of the service is shown, too. */}
              {[...new Set([...choices, shown(setting.value)])].map((choice) => (
                <option key={choice}>{choice}</option>
              ))}
            </select>
          ) : (
            <input {...attributes} disabled={isFixed} value={text} onInput={(event) => setText(event.currentTarget.value)} />
          )
        }
      </Field>
      <span class="actions">
        {isChanged && (
          <Button kind="primary" type="submit" busy={isBusy}>
            Save
          </Button>
        )}
        {!isChanged && setting.overwritten && !setting.protected && (
          <Button kind="quiet" needs="write" busy={isBusy} onClick={() => void put(null, `Reset ${setting.key}`)}>
            Use default
          </Button>
        )}
      </span>
    </form>
  );
}

export function Settings({ path }: { path: string }) {
  const found = useLoaded(`${path}/settings`, (signal) => get<{ settings: Setting[] }>(`${path}/settings`, signal));
  const [filter, setFilter] = useState("");
  if (found.error && !found.data) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="settings" />;
  const wanted = filter.toLowerCase();
  const matching = found.data.settings.filter((each) => `${each.key} ${each.description}`.toLowerCase().includes(wanted));
  const open = matching.filter((each) => !each.protected);
  const closed = matching.filter((each) => each.protected);
  const changed = () => {
    found.reload();
    void load().catch(() => undefined);
  };
  return (
    <>
      <div class="filter">
        <input
          type="search"
          aria-label="Filter settings"
          placeholder="Filter settings"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
        <span class="quiet">{lack("write") ?? "A file keeps the settings that it was opened with."}</span>
      </div>
      {open.length > 0 && (
        <section class="panel" aria-label="Settings">
          {open.map((setting) => (
            <SettingRow key={setting.key} path={path} setting={setting} onChanged={changed} />
          ))}
        </section>
      )}
      {closed.length > 0 && (
        <details class="more" open={wanted !== ""}>
          <summary>{closed.length} protected settings, which only an operator changes</summary>
          <section class="panel" aria-label="Protected settings">
            {closed.map((setting) => (
              <SettingRow key={setting.key} path={path} setting={setting} onChanged={changed} />
            ))}
          </section>
        </details>
      )}
      {!matching.length && <NoMatch title={`No setting matches “${filter}”`} onClear={() => setFilter("")} />}
    </>
  );
}
