/** Small components shared by all pages. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { errorText } from "../api/client";
import { ago, count, localTime, utcTime } from "../lib/format";
import { lack, type Right, token } from "../state/rights";
import { endSession, now } from "../state/session";

export function Time({ at, relative = false }: { at: string | number | null | undefined; relative?: boolean }) {
  if (at === null || at === undefined) return <span class="quiet nums">never</span>;
  const date = new Date(at);
  const text = relative ? ago(now() - date.getTime()) : localTime(date, new Date());
  return (
    <time dateTime={date.toISOString()} title={utcTime(date)} class="nums">
      {text}
    </time>
  );
}

type Kind = "primary" | "plain" | "danger" | "quiet";

/** What is not offered: it can be reached with the keyboard, and says why it does nothing. */
function Refused({ kind, type = "button", reason, children }: { kind: Kind; type?: "button" | "submit"; reason: string; children: ComponentChildren }) {
  const id = useId();
  return (
    <span class="refused">
      <button type={type} class={`button ${kind}`} aria-disabled="true" aria-describedby={id} onClick={(event) => event.preventDefault()}>
        {children}
      </button>
      <span role="tooltip" id={id} class="tip">
        {reason}
      </span>
    </span>
  );
}

type ButtonProps = Omit<JSX.IntrinsicElements["button"], "type"> & {
  type?: "button" | "submit";
  kind?: Kind;
  busy?: boolean;
  /** The right of the action; without it the button only says so. */
  needs?: Right;
};

export function Button({ kind = "plain", busy = false, needs, children, ...rest }: ButtonProps) {
  const reason = lack(needs);
  if (reason)
    return (
      <Refused kind={kind} type={rest.type} reason={reason}>
        {children}
      </Refused>
    );
  return (
    <button type="button" {...rest} class={`button ${kind}`} aria-busy={busy} disabled={rest.disabled || busy}>
      {children}
    </button>
  );
}

/** A link to a page on which something is changed. */
export function ActionLink({ kind = "plain", href, needs, children }: { kind?: Kind; href: string; needs: Right; children: ComponentChildren }) {
  const reason = lack(needs);
  if (reason)
    return (
      <Refused kind={kind} reason={reason}>
        {children}
      </Refused>
    );
  return (
    <a class={`button ${kind}`} href={href}>
      {children}
    </a>
  );
}

/** The content of a page or a part of one for which the token lacks a right. */
export function NotAllowed({ title, right, isPage = false }: { title: string; right: Right; isPage?: boolean }) {
  const { name = "", rights = [] } = token.value ?? {};
  return (
    <Empty title={title} isPage={isPage}>
      <p>
        This needs a token with the right <code>{right}</code>. {name ? `“${name}”` : "Yours"} has {rights.length ? rights.join(", ") : "none"}.
      </p>
      <Button onClick={() => endSession()}>Sign in with another token</Button>
    </Empty>
  );
}

/** Copy *text* on a page without `navigator.clipboard`, which browsers offer over HTTPS and on this machine alone. */
function copyBySelection(text: string): boolean {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "sr";
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
  }
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [outcome, setOutcome] = useState("");
  const copy = async () => {
    let isCopied: boolean;
    try {
      await navigator.clipboard.writeText(text);
      isCopied = true;
    } catch {
      isCopied = copyBySelection(text);
    }
    setOutcome(isCopied ? "Copied" : "Select it");
    setTimeout(() => setOutcome(""), 1500);
  };
  return (
    <>
      <Button kind="quiet" onClick={() => void copy()} aria-label={`${outcome || label}: ${text.slice(0, 40)}`}>
        <span class="swap" data-on={outcome !== ""}>
          <span>{label}</span>
          <span>{outcome || "Copied"}</span>
        </span>
      </Button>
      <span class="sr" role="status">
        {outcome}
      </span>
    </>
  );
}

export function Code({ text, label, copy = true }: { text: string; label: string; copy?: boolean }) {
  return (
    <figure class="code">
      <pre tabIndex={0} aria-label={label}>
        <code>{text}</code>
      </pre>
      {copy && <CopyButton text={text} />}
    </figure>
  );
}

export function ErrorBox({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  if (!error) return null;
  return (
    <div class="note bad" role="alert">
      <p>{errorText(error)}</p>
      {onRetry && (
        <Button kind="quiet" onClick={onRetry}>
          Try again
        </Button>
      )}
    </div>
  );
}

/** :param isPage: whether it is the only content of the page. */
export function Empty({ title, isPage = false, children }: { title: string; isPage?: boolean; children?: ComponentChildren }) {
  return (
    <div class="empty">
      {isPage ? <h1>{title}</h1> : <p class="big">{title}</p>}
      {children}
    </div>
  );
}

/** Shown instead of a list of which no element matches the filter.
 *
 * :param title: what isn't there.
 */
export function NoMatch({ title, onClear }: { title: string; onClear: () => void }) {
  return (
    <Empty title={title}>
      <Button onClick={onClear}>Clear the filter</Button>
    </Empty>
  );
}

/** The buttons below one page of a longer list.
 *
 * :param back: what leads to the page before; disabled if undefined.
 * :param next: what leads to the page behind; disabled if undefined.
 */
export function Pager(props: { back: (() => void) | undefined; next: (() => void) | undefined; labels?: [string, string]; children?: ComponentChildren }) {
  const { back, next, labels = ["Previous", "Next"], children } = props;
  const ref = useRef<HTMLElement>(null);
  const turn = (act: (() => void) | undefined) => () => {
    act?.();
    // The other page is read from its beginning.
    ref.current?.closest("section, main")?.scrollIntoView();
  };
  return (
    <nav ref={ref} class="pages" aria-label="Pages of the list">
      <Button disabled={!back} onClick={turn(back)}>
        {labels[0]}
      </Button>
      <span class="nums quiet" role="status">
        {children}
      </span>
      <Button disabled={!next} onClick={turn(next)}>
        {labels[1]}
      </Button>
    </nav>
  );
}

/** A name, which is a link to all of its row, above what identifies it. What is cut off is read in a tooltip. */
export function Who({ name, href, about, children }: { name: string; href: string; about: string; children: ComponentChildren }) {
  return (
    <div class="who">
      <a href={href} class="cover" title={`${name} · ${about}`}>
        {name}
      </a>
      <span class="quiet">{children}</span>
    </div>
  );
}

export function Badge({ kind, children }: { kind: string; children: ComponentChildren }) {
  return (
    <span class="badge" data-kind={kind}>
      {children}
    </span>
  );
}

/** Text that is broken behind its dots, if it has to be: the name of a setting. */
const dotted = (text: string): ComponentChildren =>
  text.split(".").flatMap((part, place) => (place ? [".", <wbr key={place} />, part] : [part]));

export function Field(props: {
  label: string;
  hint?: ComponentChildren;
  error?: string | null;
  children: (attributes: { id: string; "aria-describedby": string | undefined; "aria-invalid": boolean }) => ComponentChildren;
}) {
  const id = useId();
  const described = [props.error && `${id}-error`, props.hint && `${id}-hint`].filter(Boolean).join(" ") || undefined;
  return (
    <div class="field">
      <label for={id}>{dotted(props.label)}</label>
      {props.children({ id, "aria-describedby": described, "aria-invalid": Boolean(props.error) })}
      {props.error && (
        <p class="wrong" id={`${id}-error`}>
          {props.error}
        </p>
      )}
      {props.hint && (
        <p class="hint" id={`${id}-hint`}>
          {props.hint}
        </p>
      )}
    </div>
  );
}

export interface TabItem {
  id: string;
  label: string;
  count?: number;
}

/** Links that look like tabs; each has its own address. */
export function Tabs({ items, current, link }: { items: TabItem[]; current: string; link: (id: string) => string }) {
  return (
    <nav class="tabs" aria-label="Views">
      {items.map((item) => (
        <a key={item.id} href={link(item.id)} aria-current={item.id === current ? "page" : undefined}>
          {item.label}
          {item.count ? <span class="count">{count(item.count)}</span> : null}
        </a>
      ))}
    </nav>
  );
}

/** Tabs within a page. */
export function Choice<T extends string>(props: { label: string; items: { id: T; label: string }[]; value: T; onChange: (id: T) => void }) {
  return (
    <div class="choice" role="group" aria-label={props.label}>
      {props.items.map((item) => (
        <button type="button" key={item.id} aria-pressed={item.id === props.value} onClick={() => props.onChange(item.id)}>
          {item.label}
        </button>
      ))}
    </div>
  );
}

/** A line of the newest values. Its height never changes. */
export function Spark({ values, label, width = 120, height = 28 }: { values: number[]; label: string; width?: number; height?: number }) {
  const most = Math.max(...values, 1e-9);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, place) => `${(place * step).toFixed(1)},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`);
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="img" aria-label={label} preserveAspectRatio="none">
      <polygon points={`0,${height} ${points.join(" ")} ${width},${height}`} />
      <polyline points={points.join(" ")} />
    </svg>
  );
}

export interface Ask {
  title: string;
  text: ComponentChildren;
  action: string;
  danger?: boolean;
  act: () => Promise<unknown>;
}

/** Asks for confirmation of an action that is hard to undo, and shows its error. */
export function Confirm({ ask, onClose }: { ask: Ask; onClose: () => void }) {
  const ref = useRef<HTMLDialogElement>(null);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await ask.act();
      onClose();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return (
    <dialog ref={ref} aria-labelledby={id} onCancel={onClose}>
      <h2 id={id}>{ask.title}</h2>
      <div class="stack">{ask.text}</div>
      <ErrorBox error={error} />
      <div class="actions">
        <Button onClick={onClose}>Cancel</Button>
        <Button kind={ask.danger ? "danger" : "primary"} busy={isBusy} onClick={() => void act()}>
          {ask.action}
        </Button>
      </div>
    </dialog>
  );
}

/** A menu of actions.
 *
 * :param about: text above the actions.
 * :param needs: the right of all actions.
 */
export function Menu(props: { label: string; about?: string; needs?: Right; items: { label: string; act: () => void; danger?: boolean }[] }) {
  const { label, about, needs, items } = props;
  const ref = useRef<HTMLDetailsElement>(null);
  const close = () => ref.current?.removeAttribute("open");
  useEffect(() => {
    const outside = (event: Event) => {
      if (ref.current?.open && !ref.current.contains(event.target as Node)) close();
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, []);
  const reason = lack(needs);
  if (reason)
    return (
      <Refused kind="plain" reason={reason}>
        {label}
      </Refused>
    );
  return (
    <details
      ref={ref}
      class="menu"
      onFocusOut={(event) => event.relatedTarget instanceof Node && !ref.current?.contains(event.relatedTarget) && close()}
      onKeyDown={(event) => {
        if (event.key === "Escape") {
          close();
          ref.current?.querySelector("summary")?.focus();
        }
      }}
    >
      <summary class="button plain" title={label}>
        <span class="cut">{label}</span>
      </summary>
      <ul>
        {about && <li class="about quiet small">{about}</li>}
        {items.map((item) => (
          <li key={item.label}>
            <button
              type="button"
              class={item.danger ? "danger" : ""}
              onClick={() => {
                close();
                // A dialog gives the focus back to it.
                ref.current?.querySelector("summary")?.focus();
                item.act();
              }}
            >
              {item.label}
            </button>
          </li>
        ))}
      </ul>
    </details>
  );
}

export const Loading = ({ what }: { what: string }) => (
  <p class="loading" role="status">
    Loading {what} …
  </p>
);

/** Text from a record, shortened so that a large one doesn't block the page. */
export function clipped(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)} … (${text.length - most} more characters)` : text;
}

/** JSON with line breaks, if it is JSON and small enough for that. */
export function pretty(text: string): string {
  if (text.length > 200_000) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
