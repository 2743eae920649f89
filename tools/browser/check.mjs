// Opens reports in a browser and fails where a page has a script or console error, asks a
// network for anything, is wider than the screen, or breaks a rule of axe-core. It looks
// at a phone's and a desk's width, light and dark, and at print; with --shots DIR it keeps
// pictures of them.
//
//   node check.mjs [--shots DIR] PAGE.html...
//
// The browser is Debian's chromium, or what CHROMIUM names.
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const axePath = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const widths = [360, 1440];
const schemes = ["light", "dark"];

const args = process.argv.slice(2);
let shots = "";
if (args[0] === "--shots") {
  shots = args[1];
  args.splice(0, 2);
  mkdirSync(shots, { recursive: true });
}
if (args.length === 0) {
  console.error("usage: node check.mjs [--shots DIR] PAGE.html...");
  process.exit(2);
}

let passed = 0, failed = 0;
function report(where, problems) {
  if (problems.length === 0) {
    passed++;
    return;
  }
  failed++;
  console.error(`${where}:\n  ${problems.join("\n  ")}`);
}

// overflow names what reaches beyond the right edge of the page, but not what can be
// scrolled to inside it.
function overflow() {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const e of document.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect();
    if (box.width > 0 && box.right > innerWidth + 1 && !e.closest(".scroll, pre, .vh")) {
      found.push(`<${e.localName} class="${e.getAttribute("class") ?? ""}"> reaches to ${Math.round(box.right)}`);
    }
  }
  return found.slice(0, 5);
}

// crowded names words of a chart that lie over each other or outside of it.
function crowded() {
  const found = [];
  for (const svg of document.querySelectorAll("svg[role=img]")) {
    const frame = svg.getBoundingClientRect();
    if (frame.width === 0) continue;
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([words, a], i) => {
      if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push(`"${words}" leaves ${svg.getAttribute("aria-label").slice(0, 60)}`);
      for (const [other, b] of texts.slice(i + 1)) {
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 2 && y > 0.35 * Math.min(a.height, b.height)) found.push(`"${words}" lies over "${other}" in ${svg.getAttribute("aria-label").slice(0, 60)}`);
      }
    });
  }
  return found;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
for (const file of args) {
  const name = basename(file, ".html");
  const url = pathToFileURL(resolve(file)).href;
  for (const colorScheme of schemes) {
    for (const width of widths) {
      const page = await browser.newPage({ colorScheme, viewport: { width, height: 900 }, bypassCSP: false });
      const problems = [];
      page.on("console", (m) => problems.push(`console ${m.type()}: ${m.text()}`));
      page.on("pageerror", (e) => problems.push(`script: ${e.message}`));
      page.on("dialog", (d) => { problems.push("a dialog was opened"); d.dismiss(); });
      page.on("request", (r) => { if (r.url() !== url) problems.push(`request: ${r.url()}`); });
      await page.goto(url);
      problems.push(...await page.evaluate(overflow), ...await page.evaluate(crowded));
      if (shots) await page.screenshot({ path: join(shots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
      problems.push(...await page.evaluate(overflow), ...await page.evaluate(crowded));
      report(`${name} at ${width}, ${colorScheme}`, problems);
      await page.close();
      if ((colorScheme === "light") !== (width === widths[0])) continue; // each width and each scheme once
      // axe needs scripts that the page's policy forbids, so it gets a page without one.
      const free = await browser.newPage({ colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      await free.goto(url);
      await free.addScriptTag({ path: axePath });
      const axe = await free.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
      report(`${name} at ${width}, ${colorScheme}, axe-core`,
        axe.violations.flatMap((v) => v.nodes.slice(0, 3).map((n) => `${v.id}: ${n.target} ${n.failureSummary.replaceAll("\n", " ")}`)));
      await free.close();
    }
  }
  const page = await browser.newPage();
  await page.goto(url);
  await page.emulateMedia({ media: "print" });
  await page.setViewportSize({ width: 700, height: 1000 }); // A4 less margins
  report(`${name}, print`, await page.evaluate(overflow));
  if (shots) await page.pdf({ path: join(shots, `${name}.pdf`), format: "A4" });
  await page.emulateMedia({ media: "screen" });
  report(`${name}, sorting`, await page.evaluate(() => {
    const button = document.querySelector("table.sortable thead th:nth-child(4) button");
    if (!button) return [];
    const column = () => [...document.querySelector("table.sortable").tBodies[0].rows].map((r) => parseFloat(r.cells[3].dataset.v));
    button.click();
    const down = column();
    button.click();
    const up = column();
    return down.every((x, i) => i === 0 || x <= down[i - 1]) && up.every((x, i) => i === 0 || x >= up[i - 1]) ? [] : [`not in order: ${down}; ${up}`];
  }));
  await page.close();
}
await browser.close();
console.log(`browser: ${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
