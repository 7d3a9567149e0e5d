import { render } from "preact";
import { App } from "./app";
import { startSession } from "./state/session";

startSession();
const root = document.getElementById("app")!;
root.replaceChildren();
render(<App />, root);
