// Draws every chart of the page. Expressions are interpreted (`ast`), since the page's policy forbids `eval`.
const config = JSON.parse(document.querySelector("script[data-theme]").textContent);
const boxes = [...document.querySelectorAll("[data-chart]")];

async function draw(box) {
  const spec = JSON.parse(box.parentElement.querySelector("script[data-spec]").textContent);
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config, tooltip: { theme: "custom" } };
  try {
    await vegaEmbed(box, spec, options);
  } catch (error) {
    box.textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  }
}

// A chart in a folded part has no width yet: it is drawn when the part is opened.
const folded = (box) => box.closest("details:not([open])");
const atOnce = boxes.filter((box) => !folded(box));
const waiting = new Set(boxes.filter(folded));

document.addEventListener("toggle", () => {
  for (const box of [...waiting].filter((box) => !folded(box))) {
    waiting.delete(box);
    draw(box).then(() => { box.dataset.drawn = ""; });
  }
}, true);

Promise.all(atOnce.map(draw)).then(() => {
  document.documentElement.dataset.ready = String(atOnce.length);
});
