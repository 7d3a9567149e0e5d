import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { createHash } from "node:crypto";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

/** Images inside style sheets of libraries become files: the policy of the page has no `data:`. */
function imagesAsFiles(): Plugin {
  return {
    name: "images-as-files",
    generateBundle(_, bundle) {
      for (const file of Object.values(bundle)) {
        if (file.type !== "asset" || !file.fileName.endsWith(".css")) continue;
        const text = typeof file.source === "string" ? file.source : new TextDecoder().decode(file.source);
        file.source = text.replace(
          /url\((["']?)data:image\/(svg\+xml|png|gif)(;base64|;charset=utf-8|;utf8)?,(.*?)\1\)/gs,
          (_match, _quote: string, kind: string, form: string | undefined, data: string) => {
            const content = form === ";base64" ? Buffer.from(data, "base64") : Buffer.from(decodeURIComponent(data));
            const hash = createHash("sha256").update(content).digest("hex").slice(0, 8);
            const name = `image-${hash}.${kind === "svg+xml" ? "svg" : kind}`;
            this.emitFile({ type: "asset", fileName: `assets/${name}`, source: content });
            return `url(./${name})`;
          },
        );
      }
    },
  };
}

/** Each text file is written compressed, too: the service sends what is there. */
function compressed(): Plugin {
  return {
    name: "compressed",
    // Of what was written: other plugins still change the bundle while it is generated.
    writeBundle(options, bundle) {
      for (const { fileName } of Object.values(bundle)) {
        if (!/\.(js|css|html|svg)$/.test(fileName)) continue;
        const path = join(options.dir!, fileName);
        const content = readFileSync(path);
        if (content.length < 1024) continue;
        const params = {
          [constants.BROTLI_PARAM_SIZE_HINT]: content.length,
          [constants.BROTLI_PARAM_QUALITY]: content.length > 1_000_000 ? 9 : 11,
        };
        writeFileSync(`${path}.br`, brotliCompressSync(content, { params }));
        writeFileSync(`${path}.gz`, gzipSync(content, { level: 9 }));
      }
    },
  };
}

/** The licences of the libraries that are in the bundle go with it. */
function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle(_, bundle) {
      const folders = new Set<string>();
      for (const file of Object.values(bundle))
        for (const id of file.type === "chunk" ? file.moduleIds : []) {
          const found = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id.replace(/^\0/, ""));
          if (found) folders.add(found[1]!);
        }
      const texts = [...folders].sort().map((folder) => {
        const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
        const files = readdirSync(folder).filter((each) => /^(licen[cs]e|notice)|LICENSE\.txt$/i.test(each));
        const parts = files.map((each) => readFileSync(join(folder, each), "utf8").trim());
        return [`${name} ${version} (${license})`, ...parts].join("\n\n");
      });
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: `${texts.join(`\n\n${"=".repeat(72)}\n\n`)}\n` });
    },
  };
}

export default defineConfig({
  base: "./",
  build: {
    outDir: process.env.CONSOLE_OUT ?? "dist",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2000,
    reportCompressedSize: false,
    rollupOptions: { input: { index: "index.html", api: "api.html" } },
  },
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/health-check": "http://127.0.0.1:8000" } },
  test: { setupFiles: ["tests/setup.ts"] },
  plugins: [imagesAsFiles(), licenses(), compressed()],
});
