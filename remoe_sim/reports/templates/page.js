"use strict";
(() => {
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const right = event.clientX + 14 + box.width < innerWidth;
    tip.style.left = Math.max(4, right ? event.clientX + 14 : event.clientX - 14 - box.width) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 4)) + "px";
  };

  for (const plot of document.querySelectorAll(".plot")) {
    const guide = document.createElementNS("http://www.w3.org/2000/svg", "path");
    guide.setAttribute("class", "guide");
    plot.append(guide);
    for (const spot of plot.querySelectorAll(".spot")) {
      const title = spot.querySelector("title");
      spot.dataset.tip = title.textContent;
      title.remove();
      const point = (event) => {
        const top = spot.getAttribute("y"), height = spot.getAttribute("height");
        guide.setAttribute("d", `M${spot.dataset.at} ${top}v${height}`);
        show(spot.dataset.tip, event);
      };
      spot.addEventListener("pointermove", point);
      spot.addEventListener("pointerdown", point);  // a finger that rests
    }
    plot.addEventListener("pointerleave", () => { guide.removeAttribute("d"); hide(); });
  }

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const table of document.querySelectorAll(".sorts")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[column];
        return { row, key: numeric ? (cell.dataset.v === undefined ? null : Number(cell.dataset.v)) : cell.textContent };
      });
      keyed.sort((a, b) => a.key === null || b.key === null  // what is not known stays last
        ? (a.key === null) - (b.key === null)
        : (down ? -1 : 1) * compare(a.key, b.key));
      body.append(...keyed.map((one) => one.row));
    }));
  }

  for (const figure of document.querySelectorAll(".map")) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const bytes = Uint8Array.from(atob(data.ids), (c) => c.charCodeAt(0));
    const ids = new Uint16Array(bytes.buffer);
    const select = figure.querySelector("select"), canvas = figure.querySelector("canvas");
    let start = 0;
    data.layers.forEach((layer, at) => {
      layer.start = start;
      start += data.tokens * layer.top_k;
      select.add(new Option(layer.number, at));
    });
    const chosen = (layer, token) => [...ids.subarray(layer.start + token * layer.top_k, layer.start + (token + 1) * layer.top_k)]
      .filter((id) => id !== 0xffff);
    const follows = (token) => token > 0 && data.request[token] === data.request[token - 1]
      && data.position[token] === data.position[token - 1] + 1;
    const wide = Math.max(3, Math.min(8, Math.floor(900 / data.tokens)));
    let high = 1;
    const draw = () => {
      const layer = data.layers[select.value];
      high = Math.max(2, Math.min(12, Math.floor(380 / layer.experts)));
      canvas.width = data.tokens * wide;
      canvas.height = layer.experts * high;
      const style = getComputedStyle(document.documentElement), pen = canvas.getContext("2d");
      const fresh = style.getPropertyValue("--new"), again = style.getPropertyValue("--again");
      const rule = style.getPropertyValue("--rule");
      let before = [];
      for (let token = 0; token < data.tokens; token++) {
        const now = chosen(layer, token);
        if (token && data.request[token] !== data.request[token - 1]) {
          pen.fillStyle = rule;
          pen.fillRect(token * wide, 0, 1, canvas.height);
        }
        for (const id of now) {
          pen.fillStyle = follows(token) && before.includes(id) ? again : fresh;
          pen.fillRect(token * wide, id * high, wide - (wide > 3), high - (high > 2));
        }
        before = now;
      }
    };
    const point = (event) => {
      const layer = data.layers[select.value];
      const token = Math.min(data.tokens - 1, Math.floor(event.offsetX / wide));
      const expert = Math.min(layer.experts - 1, Math.floor(event.offsetY / high));
      const now = chosen(layer, token);
      show(`request ${data.request[token]}, position ${data.position[token]}, ${data.phase[token]}\nexpert ${expert}: `
        + `${now.includes(expert) ? "chosen" : "not chosen"}\nchosen here: ${now.join(", ") || "none"}`, event);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", hide);
    select.addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }
})();
