// The value under the pointer: a line's points are read out of its path, its values out of the limits of the scales.
"use strict";
for (const svg of document.querySelectorAll("svg.plot")) {
  const lines = [...svg.querySelectorAll("path[data-name]")];
  if (!lines.length) continue;
  const limits = (key) => svg.dataset[key].split(",");
  const value = (key, pixel) => {
    const [low, high, a, b, log] = limits(key).slice(0, 5).map(Number);
    const share = (pixel - a) / (b - a);
    return log ? low * (high / low) ** share : low + share * (high - low);
  };
  const written = (key, number) => {
    const form = limits(key)[5];
    if (form === "seconds") {
      const whole = Math.round(number), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
      return hours ? `${hours}h${String(minutes).padStart(2, "0")}m` : minutes ? `${minutes}m${String(whole % 60).padStart(2, "0")}s` : `${whole}s`;
    }
    const big = form === "bytes" || form === "count";
    for (const [unit, size] of big ? [["B", 1e9], ["M", 1e6], ["k", 1e3]] : [])
      if (Math.abs(number) >= size) return `${Number((number / size).toPrecision(3))}${form === "bytes" ? { B: " GB", M: " MB", k: " kB" }[unit] : unit}`;
    return String(Number(number.toPrecision(4)));
  };
  let points = null;
  const parsed = () => lines.map((line) => line.getAttribute("d").split(/[ML]/).slice(1).map((pair) => pair.split(" ").map(Number)));
  const holder = svg.parentElement;
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "mark quiet");
  svg.append(cursor);
  holder.style.position = "relative";
  holder.append(tip);
  svg.addEventListener("pointermove", (event) => {
    points ??= parsed();
    const box = svg.getBoundingClientRect(), zoom = box.width / svg.viewBox.baseVal.width;
    const [, , a, b] = limits("x").map(Number), [, , bottom, top] = limits("y").map(Number);
    const x = Math.min(Math.max((event.clientX - box.left) / zoom, a), b);
    const rows = lines.map((line, i) => {
      const nearest = points[i].reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
      return `${line.dataset.name}  ${written("y", value("y", nearest[1]))}`;
    });
    tip.textContent = [written("x", value("x", x)), ...rows].join("\n");
    tip.hidden = false;
    const half = tip.offsetWidth / 2;
    tip.style.left = `${Math.min(Math.max(x * zoom, half), box.width - half)}px`;
    tip.style.top = `${Math.max(top * zoom + tip.offsetHeight, 20)}px`;
    cursor.setAttribute("d", `M${x} ${bottom}V${top}`);
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.removeAttribute("d"); });
}
for (const block of document.querySelectorAll("pre.command")) {
  if (!navigator.clipboard) continue;
  const button = Object.assign(document.createElement("button"), { className: "copy", textContent: "copy", type: "button" });
  const words = block.textContent;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(words.trim() + "\n");
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  block.prepend(button);
}
