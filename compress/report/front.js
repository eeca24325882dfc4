// Pictures of fronts, drawn by Plotly: accuracy against latency, a slider for the budget picks the point.
// DATA is {name, split, kinds, fronts}: a kind's points are named, coloured and marked by kinds[kind] = [words, colour, symbol].

// The most accurate point that takes at most so long, within the budget where one is; the fastest of equals. Null for none.
function pick(points, most_ms) {
  const fast = points.filter((p) => p.is_choice && p.ms <= most_ms * (1 + 1e-9));
  const allowed = fast.filter((p) => p.allowed);
  const better = (a, b) => (b.accuracy - a.accuracy) || (a.ms - b.ms);
  return (allowed.length ? allowed : fast).slice().sort(better)[0] || null;
}

function text(tag, words, parent) {
  const made = document.createElement(tag);
  made.textContent = words;
  parent.appendChild(made);
  return made;
}

function escaped(words) {
  return words.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function wrapped(words) {
  return escaped(words).replace(/(.{1,90})(\s|$)/g, "$1<br>");
}

function costs(p) {
  const told = [`${p.kib.toFixed(0)} KiB`];
  if (p.peak_mib !== null) told.push(`${p.peak_mib.toFixed(0)} MiB of memory`);
  if (p.energy_mj !== null) told.push(`${p.energy_mj.toFixed(1)} mJ`);
  return told.join(", ");
}

function hover(p, front) {
  const accuracy = p.accuracy === null ? "before training" : `${p.accuracy.toFixed(2)} ${front.unit}`;
  const between = p.low === null ? "" : ` (${p.low.toFixed(3)} to ${p.high.toFixed(3)})`;
  const figures = `${accuracy}, ${p.ms.toFixed(3)} ms${between}, ${costs(p)}, ${p.form}`;
  const reason = p.reason ? `${p.kind === "stopped" ? "stopped: " : ""}${p.reason}` : "";
  return `<b>${escaped(p.name)}</b><br>${escaped(figures)}<br>${wrapped(p.done)}${wrapped(reason)}`;
}

function show(front, section) {
  const plot = section.querySelector(".plot"), slider = section.querySelector("input");
  const known = [front.least, ...front.points.map((p) => p.accuracy).filter((a) => a !== null)];
  const edge = Math.min(...known) - 0.06 * (Math.max(...known) - Math.min(...known) || 1), shown = front.points;
  const height = (p) => (p.accuracy === null ? edge : p.accuracy);
  const traces = Object.entries(DATA.kinds).map(([kind, [name, color, symbol]]) => {
    const own = shown.filter((p) => p.kind === kind);
    return {
      type: "scatter", mode: "markers", name, x: own.map((p) => p.ms), y: own.map(height),
      customdata: own.map((p) => p.name), hoverinfo: "text", hovertext: own.map((p) => hover(p, front)),
      marker: { color, symbol, size: 10, line: { color, width: 2 } },
    };
  });
  const best = shown.filter((p) => p.on_front).sort((a, b) => a.ms - b.ms);
  traces.unshift({ type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, line: { shape: "hv", color: "#0f766e", width: 1 },
    x: best.map((p) => p.ms), y: best.map((p) => p.accuracy) });
  traces.push({ type: "scatter", mode: "markers", name: "picked", hoverinfo: "skip", x: [], y: [],
    marker: { symbol: "circle-open", size: 24, color: "#b3261e", line: { width: 2 } } });
  const dashed = { type: "line", line: { color: "#b3261e", width: 1, dash: "dash" } };
  const shapes = [{ ...dashed, xref: "paper", x0: 0, x1: 1, y0: front.least, y1: front.least },
    { ...dashed, yref: "paper", y0: 0, y1: 1, x0: 0, x1: 0, visible: false }];
  Plotly.newPlot(plot, traces, {
    margin: { t: 10, r: 10 }, hovermode: "closest", shapes, legend: { orientation: "h", y: -0.2 },
    xaxis: { title: { text: "p50 latency, ms (log)" }, type: "log" },
    yaxis: { title: { text: `${front.metric}, ${front.unit} on ${DATA.split}` } },
  }, { displayModeBar: false, responsive: true });
  const times = front.points.map((p) => p.ms), low = Math.log(Math.min(...times)), high = Math.log(Math.max(...times) * 1.001);
  const budget = () => Math.exp(low + (slider.value / slider.max) * (high - low));
  const update = () => {
    const most_ms = budget(), picked = pick(front.points, most_ms), box = section.querySelector(".pick");
    section.querySelector("output").textContent = `${most_ms.toFixed(3)} ms`;
    box.replaceChildren();
    box.dataset.picked = picked ? picked.name : "";
    Plotly.relayout(plot, { "shapes[1].x0": most_ms, "shapes[1].x1": most_ms, "shapes[1].visible": true });
    Plotly.restyle(plot, { x: [picked ? [picked.ms] : []], y: [picked ? [picked.accuracy] : []] }, [traces.length - 1]);
    if (!picked) { text("p", "Nothing is that fast.", box); return; }
    text("strong", picked.name, box);
    text("p", `${picked.accuracy.toFixed(2)} ${front.unit}, ${picked.ms.toFixed(3)} ms, ${costs(picked)}, ${picked.form}` +
      (picked.allowed ? "" : `; not within the budget${picked.reason ? ": " + picked.reason : ""}`), box);
    text("p", picked.done, box);
    if (picked.recipe) {
      const link = text("a", `download its recipe (${DATA.name}-trial-${picked.number}.toml)`, box);
      link.className = "file";
      link.download = `${DATA.name}-trial-${picked.number}.toml`;
      link.href = "data:application/toml;charset=utf-8," + encodeURIComponent(picked.recipe);
      text("pre", picked.recipe, box);
    }
  };
  const place = (ms) => Math.ceil(slider.max * Math.min(1, Math.max(0, (Math.log(ms) - low) / (high - low))));
  if (front.start_ms) slider.value = place(front.start_ms);
  slider.addEventListener("input", update);
  plot.on("plotly_click", (event) => {
    slider.value = place(event.points[0].x);
    update();
  });
  update();
}
