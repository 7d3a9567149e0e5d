// What of a browser the modules touch when they are loaded.
Object.assign(globalThis, {
  addEventListener: () => undefined,
  sessionStorage: { getItem: () => null, setItem: () => undefined, removeItem: () => undefined },
  location: { hash: "", pathname: "/console/", search: "" },
});
