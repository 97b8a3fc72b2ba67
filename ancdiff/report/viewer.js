// A stick view of superposed conformers on a canvas: drag to turn, scroll or pinch to zoom. No libraries.
(function () {
  "use strict";
  const systems = JSON.parse(document.getElementById("view-data").textContent);
  const canvas = document.getElementById("view");
  const pick = { system: document.getElementById("view-system"), ensemble: document.getElementById("view-ensemble") };
  const one = document.getElementById("view-one");
  const caption = document.getElementById("view-caption");
  if (!systems.length || !canvas.getContext) return;
  const paper = canvas.getContext("2d");
  let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  let zoom = 1;

  function fill(select, names) {
    const kept = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(kept)) select.value = kept;
  }

  function times(a, b) {
    return a.map((row) => b[0].map((_, j) => row[0] * b[0][j] + row[1] * b[1][j] + row[2] * b[2][j]));
  }

  // Turn by dx about the vertical and by dy about the horizontal axis of the screen.
  function rotate(dx, dy) {
    const [cx, sx, cy, sy] = [Math.cos(dx), Math.sin(dx), Math.cos(dy), Math.sin(dy)];
    turn = times(times([[1, 0, 0], [0, cy, -sy], [0, sy, cy]], [[cx, 0, sx], [0, 1, 0], [-sx, 0, cx]]), turn);
  }

  function shown() {
    const system = systems.find((s) => s.system === pick.system.value);
    const all = system.ensembles[pick.ensemble.value];
    const index = Number(one.value);
    return { system, frames: index === 0 ? all : [all[index - 1]], index, total: all.length };
  }

  // Half bonds in the colours of their elements, the far ones first and paler.
  function sticks(system, frames, scale, width, height) {
    const out = [];
    for (const frame of frames) {
      const at = [];
      for (let i = 0; i < frame.length; i += 3) {
        const p = [frame[i], frame[i + 1], frame[i + 2]];
        at.push(turn.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]));
      }
      for (const [a, b] of system.bonds) {
        const m = [0, 1, 2].map((k) => (at[a][k] + at[b][k]) / 2);
        for (const end of [a, b]) {
          out.push({
            depth: (at[end][2] + m[2]) / 2,
            colour: system.colours[end],
            from: [width / 2 + scale * at[end][0], height / 2 - scale * at[end][1]],
            to: [width / 2 + scale * m[0], height / 2 - scale * m[1]],
          });
        }
      }
    }
    return out.sort((s, t) => s.depth - t.depth);
  }

  function draw() {
    const { system, frames, index, total } = shown();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    paper.setTransform(ratio, 0, 0, ratio, 0, 0);
    paper.clearRect(0, 0, width, height);
    paper.lineCap = "round";
    const scale = (zoom * 0.47 * Math.min(width, height)) / system.radius;
    for (const stick of sticks(system, frames, scale, width, height)) {
      const near = Math.max(0, Math.min(1, 0.5 + stick.depth / (2 * system.radius)));
      paper.globalAlpha = frames.length === 1 ? 0.5 + 0.5 * near : 0.2 + 0.6 * near;
      paper.lineWidth = (frames.length === 1 ? 5 : 2.4) * (0.7 + 0.6 * near);
      paper.strokeStyle = stick.colour;
      paper.beginPath();
      paper.moveTo(...stick.from);
      paper.lineTo(...stick.to);
      paper.stroke();
    }
    caption.textContent = index === 0 ? `all ${total} conformers` : `conformer ${index} of ${total}`;
  }

  function choose() {
    const system = systems.find((s) => s.system === pick.system.value);
    fill(pick.ensemble, Object.keys(system.ensembles));
    one.max = system.ensembles[pick.ensemble.value].length;
    if (Number(one.value) > Number(one.max)) one.value = 0;
    draw();
  }

  const fingers = new Map();
  function spread() {
    const [p, q] = [...fingers.values()];
    return Math.hypot(p.x - q.x, p.y - q.y);
  }
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 2) zoom *= spread() / apart;
    else rotate((event.clientX - before.x) / 120, (event.clientY - before.y) / 120);
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom = Math.max(0.3, Math.min(8, zoom * Math.exp(-event.deltaY / 500)));
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step) return;
    event.preventDefault();
    rotate(...step);
    draw();
  });
  pick.system.addEventListener("change", choose);
  pick.ensemble.addEventListener("change", choose);
  one.addEventListener("input", draw);
  window.addEventListener("resize", draw);
  fill(pick.system, systems.map((s) => s.system));
  choose();
})();
