"use strict";
(() => {
  const source = document.getElementById("points");
  if (!source) return;
  const { axes, points, centres } = JSON.parse(source.textContent);
  if (!points.length) return;
  const dimensions = axes.length;
  const low = [], high = [];
  for (let i = 0; i < dimensions; i++) {
    let least = Infinity, most = -Infinity;
    for (const p of points) {
      least = Math.min(least, p[i]);
      most = Math.max(most, p[i]);
    }
    low.push(least);
    high.push(most === least ? least + 1 : most);
  }
  const scaled = (p) => p.slice(0, dimensions).map((v, i) => (v - low[i]) / (high[i] - low[i]) - 0.5);
  const places = points.map(scaled);
  const colours = points.map((p) => `rgb(${p[dimensions]},${p[dimensions + 1]},${p[dimensions + 2]})`);
  const middles = centres.map(scaled);
  const ink = () => getComputedStyle(document.body).color;

  const context = (canvas) => {
    const size = canvas.clientWidth * (window.devicePixelRatio || 1);
    canvas.width = canvas.height = Math.max(1, Math.round(size));
    const g = canvas.getContext("2d");
    const unit = canvas.width / 300;
    g.font = `${11 * unit}px system-ui, sans-serif`;
    return [g, canvas.width, unit];
  };
  const cross = (g, x, y, unit, label) => {
    g.beginPath();
    g.arc(x, y, 7 * unit, 0, 7);
    g.fillStyle = "#fff";
    g.fill();
    g.lineWidth = 1.2 * unit;
    g.strokeStyle = "#000";
    g.stroke();
    g.fillStyle = "#000";
    g.textAlign = "center";
    g.fillText(label, x, y + 4 * unit);
  };
  const plane = (canvas) => {
    const [a, b] = canvas.dataset.axes.split(",").map(Number);
    const [g, size, unit] = context(canvas);
    const pad = 26 * unit, span = size - 2 * pad;
    const x = (p) => pad + (p[a] + 0.5) * span;
    const y = (p) => size - pad - (p[b] + 0.5) * span;
    const dot = 2.1 * unit;
    places.forEach((p, i) => {
      g.fillStyle = colours[i];
      g.fillRect(x(p) - dot / 2, y(p) - dot / 2, dot, dot);
    });
    middles.forEach((p, i) => cross(g, x(p), y(p), unit, String(i)));
    g.fillStyle = ink();
    g.textAlign = "right";
    g.fillText(axes[a], size - 6 * unit, size - 7 * unit);
    g.textAlign = "left";
    g.fillText(axes[b], 6 * unit, 14 * unit);
  };
  let turn = -0.5, tilt = 0.3;
  const space = (canvas) => {
    const [g, size, unit] = context(canvas);
    g.font = `${8 * unit}px system-ui, sans-serif`;
    const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    const seen = ([x, y, z]) => {
      const across = x * ct - y * st, depth = x * st + y * ct;
      const scale = size * 0.6;
      return [size / 2 + across * scale, size / 2 - (z * cp - depth * sp) * scale, depth * cp + z * sp];
    };
    g.clearRect(0, 0, size, size);
    g.strokeStyle = "rgba(150,150,150,.75)";
    g.lineWidth = 0.6 * unit;
    const corner = (n) => [n & 1 ? 0.5 : -0.5, n & 2 ? 0.5 : -0.5, n & 4 ? 0.5 : -0.5];
    for (let n = 0; n < 8; n++) {
      for (const bit of [1, 2, 4]) {
        if (n & bit) continue;
        const [x0, y0] = seen(corner(n)), [x1, y1] = seen(corner(n | bit));
        g.beginPath();
        g.moveTo(x0, y0);
        g.lineTo(x1, y1);
        g.stroke();
      }
    }
    const order = places.map((p, i) => [seen(p), i]).sort((l, r) => r[0][2] - l[0][2]);
    const dot = 1.3 * unit;
    for (const [[x, y], i] of order) {
      g.fillStyle = colours[i];
      g.fillRect(x - dot / 2, y - dot / 2, dot, dot);
    }
    middles.forEach((p, i) => {
      const [x, y] = seen(p);
      cross(g, x, y, unit * 0.7, String(i));
    });
    g.fillStyle = ink();
    g.textAlign = "center";
    [[0.62, -0.5, -0.5], [-0.5, 0.62, -0.5], [-0.5, -0.5, 0.6]].forEach((p, i) => {
      const [x, y] = seen(p);
      const half = g.measureText(axes[i]).width / 2 + 2 * unit;
      g.fillText(axes[i], Math.min(size - half, Math.max(half, x)), Math.min(size - 3 * unit, Math.max(9 * unit, y)));
    });
  };
  const draw = () => {
    document.querySelectorAll("canvas[data-axes]").forEach(plane);
    document.querySelectorAll("canvas.turns").forEach(space);
  };
  for (const canvas of document.querySelectorAll("canvas.turns")) {
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      turn += (event.clientX - last[0]) / 120;
      tilt = Math.max(-1.5, Math.min(1.5, tilt + (event.clientY - last[1]) / 120));
      last = [event.clientX, event.clientY];
      space(canvas);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
      if (!step) return;
      event.preventDefault();
      turn += step[0];
      tilt = Math.max(-1.5, Math.min(1.5, tilt + step[1]));
      space(canvas);
    });
  }
  draw();
  let waiting = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
