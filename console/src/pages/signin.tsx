import { useState } from "preact/hooks";
import { ApiError, errorText } from "../api/client";
import { ended, signIn } from "../state/session";
import { Button, Field } from "../ui/parts";
import { useTitle } from "../ui/hooks";

/** Asks for a token, and verifies it before it is stored. */
export function SignIn() {
  useTitle("Sign in");
  const [token, setToken] = useState("");
  const [branch, setBranch] = useState("default");
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const path = `/v1/branches/${encodeURIComponent(branch || "default")}/sources?limit=1`;
      const answer = await fetch(path, { headers: { "X-StorageApi-Token": token.trim() }, credentials: "omit", cache: "no-store" });
      if (!answer.ok) {
        const plain = (await answer.json().catch(() => ({}))) as { message?: string };
        throw new ApiError(answer.status, "", plain.message ?? `The API answers ${answer.status}.`);
      }
      signIn({ token: token.trim(), branch: branch || "default" });
    } catch (problem) {
      setError(problem instanceof ApiError ? errorText(problem) : "The API can't be reached.");
      setBusy(false);
    }
  };
  return (
    <main class="signin" id="main">
      <svg viewBox="0 0 32 32" width="44" height="44" aria-hidden="true" class="mark">
        <path d="M5 10c5-5 8 5 13 0s9 0 9 0M5 17c5-5 8 5 13 0s9 0 9 0M5 24c5-5 8 5 13 0s9 0 9 0" />
      </svg>
      <h1>Stream</h1>
      <p class="lead">Watch records arrive, become rows and reach their tables.</p>
      {ended.value && (
        <p class="note bad" role="alert">
          The session has ended: {ended.value}
        </p>
      )}
      <form onSubmit={(event) => void submit(event)}>
        <Field label="Token" error={error} hint="The token stays in this tab of the browser until you close the tab.">
          {(attributes) => (
            <input
              {...attributes}
              type="password"
              autocomplete="off"
              spellcheck={false}
              required
              autofocus
              value={token}
              onInput={(event) => setToken(event.currentTarget.value)}
            />
          )}
        </Field>
        <details class="more">
          <summary>Another branch</summary>
          <Field label="Branch" hint="The number of a branch, or “default”.">
            {(attributes) => (
              <input {...attributes} value={branch} onInput={(event) => setBranch(event.currentTarget.value.trim())} />
            )}
          </Field>
        </details>
        <Button kind="primary" type="submit" busy={isBusy}>
          Sign in
        </Button>
      </form>
    </main>
  );
}
