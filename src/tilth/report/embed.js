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

Promise.all(boxes.map(draw)).then(() => {
  document.documentElement.dataset.ready = String(boxes.length);
});
