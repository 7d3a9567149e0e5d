/** The description of the API in Swagger UI, which sends requests with the token of the console. */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";
import "./viewer.css";
import { session, startSession } from "./state/session";

interface SwaggerRequest {
  url: string;
  headers: Record<string, string>;
}

interface Description {
  tags?: { name: string }[];
  servers?: { url: string }[];
  paths: Record<string, Record<string, { operationId?: string; tags?: string[] }>>;
}

const HEADER = "X-StorageApi-Token";
const PLACE = "/v1/documentation/";

/** Convert a link of an error to an operation, such as `#CreateSource`, to the viewer's form. */
export function operationFragment(description: Description, hash: string): string | null {
  const wanted = hash.replace(/^#/, "");
  for (const operations of Object.values(description.paths))
    for (const operation of Object.values(operations))
      if (operation.operationId === wanted) return `#/${operation.tags?.[0] ?? "default"}/${wanted}`;
  return null;
}

type Props = Record<string, unknown>;

/** The part of Swagger UI's component system that the plugin below needs. */
interface System {
  React: { createElement: (type: unknown, props: Props | null, ...children: unknown[]) => unknown };
}

/** Swagger UI puts a link into the button that opens an operation, which screen readers can't follow.
 * The button alone leads to the same address.
 */
const withoutLinksInButtons = ({ React }: System) => ({
  wrapComponents: {
    DeepLink: () => (props: Props) => React.createElement("span", { className: "nostyle" }, React.createElement("span", null, props.text)),
  },
});

/** Add missing labels, and make scrollable areas focusable: Swagger UI has no settings for these. */
function improve(place: HTMLElement): void {
  for (const field of place.querySelectorAll<HTMLElement>("textarea:not([aria-label])"))
    field.setAttribute("aria-label", "Body of the request");
  for (const select of place.querySelectorAll<HTMLElement>("select:not([aria-label]):not([id])"))
    select.setAttribute("aria-label", "Media type");
  for (const text of place.querySelectorAll<HTMLElement>(".microlight:not([tabindex])")) text.tabIndex = 0;
}

async function start(): Promise<void> {
  const place = document.getElementById("viewer")!;
  startSession();
  let description: Description;
  try {
    const answer = await fetch(`${PLACE}openapi3.json`, { credentials: "omit" });
    if (!answer.ok) throw new Error(String(answer.status));
    description = (await answer.json()) as Description;
  } catch {
    place.replaceChildren("The description of the API can't be read. Reload to try again.");
    return;
  }
  // Without servers, calls go to the service that serves this page.
  delete description.servers;
  const fragment = operationFragment(description, location.hash);
  if (fragment) history.replaceState(null, "", fragment);
  place.replaceChildren();
  new MutationObserver(() => improve(place)).observe(place, { childList: true, subtree: true });
  SwaggerUI({
    domNode: place,
    spec: description,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    tryItOutEnabled: true,
    persistAuthorization: false,
    validatorUrl: null,
    displayRequestDuration: true,
    requestSnippetsEnabled: true,
    // The default has too little contrast for numbers.
    syntaxHighlight: { theme: "tomorrow-night" },
    plugins: [withoutLinksInButtons],
    requestInterceptor(request: SwaggerRequest) {
      const token = session.value?.token;
      if (token && !request.headers[HEADER]) request.headers[HEADER] = token;
      return request;
    },
  });
}

void start();
