// The cue painter's front end: one module without a build step, for anywidget and for manga-paint's page.
// Painting happens here; only strokes travel. The kernel replays them with the same arithmetic
// (studio/stroke_image.py, names alike), so that both see the same cue.

const clip = (x, low, high) => Math.max(low, Math.min(high, x));
const whole = x => Math.floor(x + 0.5);

// ---------------------------------------------------------------- strokes become pixels

export function inkLevel(sketch) {
  const counts = new Uint32Array(256);
  for (const level of sketch) counts[level]++;
  let paper = 128;
  for (let level = 129; level < 256; level++) if (counts[level] > counts[paper]) paper = level;
  return paper - 64;
}

function slide(from, to, n, lines, step, stride, reach) {
  for (let line = 0; line < lines; line++) {
    const start = line * stride;
    let count = 0;
    for (let i = 0; i < Math.min(reach, n); i++) count += from[start + i * step];
    for (let i = 0; i < n; i++) {
      if (i + reach < n) count += from[start + (i + reach) * step];
      if (i - reach > 0) count -= from[start + (i - reach - 1) * step];
      to[start + i * step] = count > 0 ? 1 : 0;
    }
  }
}

function grow(mask, w, h, reach) {
  if (!reach) return mask;
  const rows = new Uint8Array(w * h), out = new Uint8Array(w * h);
  slide(mask, rows, w, h, 1, w, reach);
  slide(rows, out, h, w, w, 1, reach);
  return out;
}

function offInk(ink, w, h, x, y, far = 8) {
  for (let d = 0; d <= far; d++)
    for (let dy = -d; dy <= d; dy++)
      for (let dx = -d; dx <= d; dx += Math.abs(dy) === d || !d ? 1 : 2 * d) {
        const i = x + dx, j = y + dy;
        if (i >= 0 && i < w && j >= 0 && j < h && !ink[j * w + i]) return [i, j];
      }
  return null;
}

function flood(walls, w, h, x, y) {
  const out = new Uint8Array(w * h), stack = new Int32Array(w * h);
  if (walls[y * w + x]) return out;
  let n = 0;
  const push = i => { if (!walls[i] && !out[i]) { out[i] = 1; stack[n++] = i; } };
  push(y * w + x);
  while (n) {
    const i = stack[--n], column = i % w;
    if (column) push(i - 1);
    if (column < w - 1) push(i + 1);
    if (i >= w) push(i - w);
    if (i < w * (h - 1)) push(i + w);
  }
  return out;
}

export function regionMask(sketch, w, h, x, y, gap) {
  x = Math.floor(x); y = Math.floor(y);
  if (!(x >= 0 && x < w && y >= 0 && y < h)) return new Uint8Array(w * h);
  const level = inkLevel(sketch), ink = sketch.map(v => v < level ? 1 : 0);
  const crowded = reach => {
    for (let j = Math.max(0, y - reach); j < Math.min(h, y + reach + 1); j++)
      for (let i = Math.max(0, x - reach); i < Math.min(w, x + reach + 1); i++) if (ink[j * w + i]) return true;
    return false;
  };
  let reach = Math.ceil(gap / 2);
  while (reach && crowded(reach)) reach = reach >> 1;
  if (!reach) {
    const at = offInk(ink, w, h, x, y);
    if (!at) return new Uint8Array(w * h);
    [x, y] = at;
  }
  return grow(flood(grow(ink, w, h, reach), w, h, x, y), w, h, reach);
}

const erasing = tool => tool === 'eraser' || tool === 'clear';
const PATCH_BYTES = 2 ** 28;

export class Cue {
  // The cue's pixels, and how to take back each stroke
  constructor(sketch, w, h, scale = 1, base = null) {
    Object.assign(this, { sketch, w, h, scale, base, px: new Uint8ClampedArray(w * h * 4), mask: new Uint8Array(w * h) });
    this.before = new Uint8ClampedArray(w * h * 4);
    this.restart();
  }

  restart() {
    if (this.base) this.px.set(this.base);
    else for (let i = 0; i < this.px.length; i += 4) { this.px[i] = this.px[i + 1] = this.px[i + 2] = 255; this.px[i + 3] = 0; }
    this.before.set(this.px);
    this.mask.fill(0);
    this.patches = []; this.kept = 0; this.live = null;
  }

  box(x0, y0, x1, y1, radius) {
    const { w, h } = this;
    const l = clip(Math.floor(Math.min(x0, x1) - radius - 1), 0, w), t = clip(Math.floor(Math.min(y0, y1) - radius - 1), 0, h);
    return [l, t, Math.max(l, clip(Math.ceil(Math.max(x0, x1) + radius + 1), 0, w)), Math.max(t, clip(Math.ceil(Math.max(y0, y1) + radius + 1), 0, h))];
  }

  capsule([ax, ay, ra], [bx, by, rb]) {
    const { w, mask } = this, box = this.box(ax, ay, bx, by, Math.max(ra, rb));
    const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    for (let j = box[1]; j < box[3]; j++)
      for (let i = box[0]; i < box[2]; i++) {
        const x = i + 0.5 - ax, y = j + 0.5 - ay;
        const along = length > 0 ? clip((x * dx + y * dy) / length, 0, 1) : 0;
        const ex = x - dx * along, ey = y - dy * along;
        const cover = whole(clip(ra + (rb - ra) * along - Math.sqrt(ex * ex + ey * ey) + 0.5, 0, 1) * 255);
        if (cover > mask[j * w + i]) mask[j * w + i] = cover;
      }
    return box;
  }

  blend([l, t, r, b]) {
    const { px, before, mask, w } = this, { tool, color = '#000000', opacity = 1 } = this.live.stroke;
    const c = [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16)), rub = erasing(tool);
    for (let j = t; j < b; j++)
      for (let i = l; i < r; i++) {
        const k = j * w + i, o = 4 * k, a = mask[k] / 255 * opacity;
        if (!(a > 0)) { for (let n = 0; n < 4; n++) px[o + n] = before[o + n]; continue; }
        if (rub) {
          const left = whole(before[o + 3] * (1 - a));
          for (let n = 0; n < 3; n++) px[o + n] = left ? before[o + n] : 255;
          px[o + 3] = left;
        } else {
          const under = before[o + 3] / 255 * (1 - a), total = a + under;
          const left = whole(total * 255);
          for (let n = 0; n < 3; n++) px[o + n] = left ? whole((c[n] * a + before[o + n] * under) / total) : 255;
          px[o + 3] = left;
        }
      }
  }

  place([x, y, p = 0.5], size) { return [x * this.scale, y * this.scale, Math.max(0.5, size * this.scale / 2 * (0.5 + clip(p, 0, 1)))]; }

  begin(stroke) { this.live = { stroke, drawn: 0, box: null }; return this.extend(); }

  extend() {
    // Paint the points that have come since; gives the box that changed
    const { live } = this, { tool, points = [], size = 24, gap = 4 } = live.stroke;
    let box = null;
    const widen = b => { box = box ? [Math.min(box[0], b[0]), Math.min(box[1], b[1]), Math.max(box[2], b[2]), Math.max(box[3], b[3])] : b; };
    if (tool === 'clear') { this.mask.fill(255); widen([0, 0, this.w, this.h]); }
    else if (tool === 'fill') {
      const [x, y] = this.place(points[points.length - 1], 1), region = regionMask(this.sketch, this.w, this.h, x, y, gap * this.scale);
      for (let k = 0; k < region.length; k++) this.mask[k] = region[k] * 255;
      widen([0, 0, this.w, this.h]);
    } else {
      const at = points.map(p => this.place(p, size));
      if (!live.drawn) widen(this.capsule(at[0], at[0]));
      for (let i = Math.max(1, live.drawn); i < at.length; i++) widen(this.capsule(at[i - 1], at[i]));
      live.drawn = at.length;
    }
    if (!box) return null;
    this.blend(box);
    const changed = box; box = live.box; widen(changed); live.box = box;
    return changed;
  }

  copy(from, to, [l, t, r, b]) { for (let j = t; j < b; j++) { const o = 4 * (j * this.w + l); to.set(from.subarray(o, o + 4 * (r - l)), o); } }

  end() {
    const [l, t, r, b] = this.live.box, patch = { box: this.live.box, pixels: new Uint8ClampedArray(4 * (r - l) * (b - t)) };
    for (let j = t; j < b; j++) {
      patch.pixels.set(this.before.subarray(4 * (j * this.w + l), 4 * (j * this.w + r)), 4 * (j - t) * (r - l));
      this.mask.fill(0, j * this.w + l, j * this.w + r);
    }
    this.copy(this.px, this.before, patch.box);
    this.patches.push(patch); this.kept += patch.pixels.length; this.live = null;
    for (let i = 0; this.kept > PATCH_BYTES && i < this.patches.length - 1; i++)
      if (this.patches[i]) { this.kept -= this.patches[i].pixels.length; this.patches[i] = null; }
  }

  cancel() {
    const { box } = this.live;
    this.copy(this.before, this.px, box);
    for (let j = box[1]; j < box[3]; j++) this.mask.fill(0, j * this.w + box[0], j * this.w + box[2]);
    this.live = null;
    return box;
  }

  undo() {
    // The box that changed, or null: the patch is gone and everything must be replayed
    const patch = this.patches.pop();
    if (!patch) return null;
    const [l, t, r, b] = patch.box;
    this.kept -= patch.pixels.length;
    for (let j = t; j < b; j++) this.px.set(patch.pixels.subarray(4 * (j - t) * (r - l), 4 * (j - t + 1) * (r - l)), 4 * (j * this.w + l));
    this.copy(this.px, this.before, patch.box);
    return patch.box;
  }

  paint(stroke) { const box = this.begin(stroke); this.end(); return box; }
  replay(strokes) { this.restart(); for (const s of strokes) this.paint(s); }
}

// ---------------------------------------------------------------- what the kernel sends

const bytesOf = v => !v ? new Uint8Array() : v instanceof Uint8Array ? v : ArrayBuffer.isView(v) ? new Uint8Array(v.buffer, v.byteOffset, v.byteLength) : new Uint8Array(v);

async function unpack(value) {
  // Height, width and channels (three 32-bit numbers), then the deflated pixels: no colour profile touches them
  const bytes = bytesOf(value);
  if (bytes.length < 12) return null;
  const head = new DataView(bytes.buffer, bytes.byteOffset, 12), [h, w, channels] = [0, 4, 8].map(i => head.getUint32(i, true));
  const stream = new Blob([bytes.subarray(12)]).stream().pipeThrough(new DecompressionStream('deflate'));
  return { h, w, channels, pixels: new Uint8Array(await new Response(stream).arrayBuffer()) };
}

// ---------------------------------------------------------------- the tool itself

const icons = {
  brush: 'M4 20c3.2.3 5.6-.8 5.8-3.8L19 5l1.6 1.6L9.8 16.2M12.6 12.6l2 2', point: 'M12 8a4 4 0 1 0 .01 0zM12 2v3M12 19v3M2 12h3M19 12h3',
  eraser: 'M8.5 19.5 4 15l9.5-10 6.5 6-8 8.5zM9 10l6.3 6M8.5 19.5H20', fill: 'M5 12l7-7 7.5 7.5-6.3 6.3a1.4 1.4 0 0 1-2 0zM12 5 9.5 2.5M5 12h14M20.5 16.5c1 1.6 1.5 2.4 1.5 3.1a1.5 1.5 0 0 1-3 0c0-.7.5-1.5 1.5-3.1z',
  pick: 'M13.5 6.5l4 4M15 8l-9 9-2 3 3-2 9-9M14.5 5.5l1-1a2.1 2.1 0 0 1 3 0l1 1a2.1 2.1 0 0 1 0 3l-1 1', hand: 'M12 3v18M3 12h18M9.5 5.5 12 3l2.5 2.5M9.5 18.5 12 21l2.5-2.5M5.5 9.5 3 12l2.5 2.5M18.5 9.5 21 12l-2.5 2.5',
  undo: 'M8.5 5 4 9.5 8.5 14M4 9.5h10a5.2 5.2 0 0 1 0 10.5h-4', redo: 'M15.5 5 20 9.5 15.5 14M20 9.5H10A5.2 5.2 0 0 0 10 20h4', clear: 'M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 10.5v6M13.5 10.5v6',
  fit: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5', compare: 'M12 3v18M9 8 5 12l4 4M15 8l4 4-4 4', ideas: 'M9 18h6M10 21h4M8.5 15.2a6 6 0 1 1 7 0c-.4.5-.5 1-.5 1.8H9c0-.8-.1-1.3-.5-1.8z',
  open: 'M3.5 18.5v-12h6l2 2.5h8v2.5M3.5 18.5l3-7h15l-3 7z', save: 'M5 4h11l3 3v13H5zM8.5 4v5h6V4M8 20v-6h8v6', download: 'M12 4v11M7.5 11 12 15.5 16.5 11M4.5 20h15', help: 'M9.2 9.2a2.9 2.9 0 1 1 4 2.9c-.9.4-1.2 1-1.2 2M12 17.4v.2M12 2.8a9.2 9.2 0 1 0 .01 0z', play: 'M7 4.5v15l12-7.5z',
};
const icon = name => `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${icons[name]}"/></svg>`;
const button = (name, label, key = '') => `<button type="button" data-do="${name}" title="${label}${key ? ` (${key})` : ''}" aria-label="${label}">${icon(name)}</button>`;
const tools = [['brush', 'Highlighter', 'B'], ['point', 'Point', 'P'], ['eraser', 'Eraser', 'E'], ['fill', 'Fill a region', 'G'], ['pick', 'Pick a colour', 'I'], ['hand', 'Move the page', 'H']];
const shortcuts = [['B P E G', 'highlighter, point, eraser, fill'], ['I, or Alt + click', 'pick a colour from the page'], ['H, or Space + drag', 'move the page'], ['[  ]', 'smaller, larger brush'], ['Ctrl + Z, Ctrl + Y', 'undo, redo'],
  ['wheel,  +  −  0', 'zoom; 0 shows the whole page'], ['1  2  3', 'sketch, result, cue: show or hide'], ['C', 'before and after'], ['Enter', 'colour now'], ['Ctrl + S', 'save the picture'], ['Esc', 'drop the stroke in hand']];

const html = `
<div class="cp-bar" role="toolbar" aria-label="Tools">
  <span class="cp-group">${tools.map(t => button(...t)).join('')}</span>
  <span class="cp-group">${button('undo', 'Undo', 'Ctrl+Z')}${button('redo', 'Redo', 'Ctrl+Y')}${button('clear', 'Clear the cue')}</span>
  <span class="cp-group">${button('fit', 'Show the whole page', '0')}<output class="cp-zoom">100%</output>${button('compare', 'Before and after', 'C')}</span>
  <span class="cp-group cp-right">${button('ideas', 'Propose colours')}${button('open', 'Open another sketch')}${button('save', 'Save in the folder of the kernel')}${button('download', 'Download the coloured page')}${button('help', 'Keys', '?')}</span>
</div>
<div class="cp-main">
  <div class="cp-stage">
    <div class="cp-page"><canvas class="cp-sketch"></canvas><canvas class="cp-result"></canvas><canvas class="cp-cue"></canvas></div>
    <div class="cp-ring"></div><div class="cp-wipe" role="slider" aria-label="Before and after"><i></i></div>
    <div class="cp-banner" role="alert" hidden><span></span> <button type="button" data-do="keep">Download the strokes</button></div>
    <div class="cp-help" hidden><table>${shortcuts.map(([k, t]) => `<tr><th>${k}</th><td>${t}</td></tr>`).join('')}</table></div>
    <p class="cp-empty" hidden>Open a sketch, or drop one here</p>
  </div>
  <div class="cp-side">
    <div class="cp-color"><input type="color" aria-label="Colour"><code></code></div>
    <label>Size<input type="range" name="size" min="0" max="1" step="0.01"><output></output></label>
    <label>Opacity<input type="range" name="opacity" min="0.05" max="1" step="0.05"><output></output></label>
    <label class="cp-gap">Close gaps<input type="range" name="gap" min="0" max="20" step="1"><output></output></label>
    <h4>Suggested</h4><div class="cp-swatches" data-of="palette"></div>
    <h4>In the picture</h4><div class="cp-swatches" data-of="found"></div>
    <h4>Recent</h4><div class="cp-swatches" data-of="recent"></div>
    <h4>Layers</h4>
    <label>Sketch<input type="range" name="sketch" min="0" max="1" step="0.05" value="1"></label>
    <label>Result<input type="range" name="result" min="0" max="1" step="0.05" value="1"></label>
    <label>Cue<input type="range" name="cue" min="0" max="1" step="0.05" value="0.6"></label>
  </div>
</div>
<div class="cp-gallery" hidden></div>
<div class="cp-foot"><i class="cp-lamp"></i><span class="cp-status" role="status"></span>
  <label class="cp-auto"><input type="checkbox"> colour after each stroke</label><button type="button" data-do="paint" title="Colour now (Enter)">${icon('play')} Colour</button></div>
<input type="file" accept="image/*" hidden>`;

function isDark(el) {
  const { body, documentElement: root } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === 'false';
  if (/vscode-(dark|high-contrast(?!-light))/.test(body.className)) return true;
  if (root.getAttribute('theme')) return root.getAttribute('theme') === 'dark';
  for (let e = el; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor.match(/[\d.]+/g)?.map(Number);
    if (c && (c.length < 4 || c[3] > 0.5)) return 0.3 * c[0] + 0.6 * c[1] + 0.1 * c[2] < 128;
  }
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

const hex = (r, g, b) => '#' + [r, g, b].map(v => v.toString(16).padStart(2, '0')).join('');
const equal = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

function render({ model, el }) {
  const root = document.createElement('div');
  root.className = 'cue-painter';
  root.tabIndex = 0;
  root.setAttribute('data-lm-suppress-shortcuts', 'true');
  root.innerHTML = html;
  el.append(root);
  const $ = s => root.querySelector(s), $$ = s => [...root.querySelectorAll(s)];
  const stage = $('.cp-stage'), page = $('.cp-page'), ring = $('.cp-ring'), wipe = $('.cp-wipe'), file = $('input[type=file]');
  const layers = { sketch: $('.cp-sketch'), result: $('.cp-result'), cue: $('.cp-cue') };
  const get = name => model.get(name), put = values => { for (const k in values) model.set(k, values[k]); model.save_changes(); };

  let cue = null, image = null, strokes = [], redo = [], recent = [], lost = false, note = '', slow = false, timer = 0;
  let sent = null, view = { x: 0, y: 0, zoom: 1, fitted: true }, compare = null, shown = { sketch: 1, result: 1, cue: 0.6 };
  let brush = { tool: 'brush', color: '#e58fb1', size: 24, opacity: 0.85, gap: 4, ...get('brush') }, sizes = {};
  const alive = new AbortController(), listeners = [];
  const on = (target, type, f, options) => target.addEventListener(type, f, { signal: alive.signal, ...options });
  const listen = (name, f) => { model.on(name, f); listeners.push([name, f]); };

  // ---- seeing
  const place = () => {
    page.style.transform = `translate(${view.x}px,${view.y}px) scale(${view.zoom})`;
    page.classList.toggle('cp-pixels', view.zoom > 6);
    $('.cp-zoom').textContent = Math.round(view.zoom * (cue?.scale ?? 1) * 100) + '%';
    wipe.style.display = compare === null ? 'none' : '';
    if (cue) { wipe.style.left = clip(view.x + (compare ?? 0) * cue.w * view.zoom, 0, stage.clientWidth) + 'px'; }
    layers.result.style.clipPath = compare === null ? '' : `inset(0 0 0 ${100 * compare}%)`;
    showRing();
  };
  const fit = () => {
    if (!cue || !stage.clientWidth) return;
    const zoom = Math.min((stage.clientWidth - 24) / cue.w, (stage.clientHeight - 24) / cue.h, 16);
    view = { zoom, x: (stage.clientWidth - cue.w * zoom) / 2, y: (stage.clientHeight - cue.h * zoom) / 2, fitted: true };
    place();
  };
  const zoomBy = (factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const zoom = clip(view.zoom * factor, 0.02, 40), k = zoom / view.zoom;
    view = { zoom, x: x - (x - view.x) * k, y: y - (y - view.y) * k, fitted: false };
    place();
  };
  const show = box => { if (box) layers.cue.getContext('2d').putImageData(image, 0, 0, box[0], box[1], box[2] - box[0], box[3] - box[1]); };
  const whole_page = () => [0, 0, cue.w, cue.h];
  const setLayers = () => {
    for (const name in layers) { layers[name].style.opacity = shown[name]; $(`input[name=${name}]`).value = shown[name]; }
  };

  // ---- telling
  const status = () => {
    const waiting = !lost && get('_asked') !== get('_answered') && (get('auto') || get('busy'));
    const text = lost ? '' : get('error') ? get('error') : get('busy') || waiting ? (slow && !get('busy') ? 'The kernel does not answer yet. Another cell may be running, or it has stopped. Your strokes are kept.' : 'Colouring …')
      : note || (cue ? `${strokes.length || 'No'} stroke${strokes.length === 1 ? '' : 's'} on ${Math.round(cue.w / cue.scale)} × ${Math.round(cue.h / cue.scale)} pixels` : '');
    root.dataset.state = lost ? 'lost' : get('error') ? 'error' : get('busy') || waiting ? 'busy' : 'ready';
    $('.cp-status').textContent = text; $('.cp-status').title = text;
    clearTimeout(timer);
    if (waiting && !get('busy') && !slow) timer = setTimeout(() => { slow = true; status(); }, 5000);
    if (!waiting) slow = false;
    $('.cp-banner').hidden = !lost;
    $('[data-do=undo]').disabled = !strokes.length; $('[data-do=redo]').disabled = !redo.length; $('[data-do=clear]').disabled = !cue;
    for (const name of ['paint', 'ideas', 'save', 'download', 'open']) $(`[data-do=${name}]`).disabled = lost || (name !== 'open' && !cue);
  };
  const lose = () => {
    lost = true;
    $('.cp-banner span').textContent = model.lost ?? 'The kernel is gone. Nothing you painted is lost: keep the strokes, run the cell again, and give them to painter.strokes.';
    status();
  };
  const swatches = () => {
    const lists = { palette: get('palette') ?? [], found: get('_found') ?? [], recent };
    for (const name in lists) {
      const box = $(`[data-of=${name}]`);
      box.previousElementSibling.hidden = box.hidden = !lists[name].length;
      box.replaceChildren(...lists[name].map(c => Object.assign(document.createElement('button'), { type: 'button', title: c, style: `background:${c}`, onclick: () => setBrush({ color: c }, true) })));
    }
  };
  const setBrush = (change, paints = false) => {
    if (change.tool && change.tool !== brush.tool) { sizes[brush.tool] = brush.size; change = { size: sizes[change.tool] ?? { point: 8, eraser: 32, brush: 24 }[change.tool] ?? brush.size, ...change }; }
    brush = { ...brush, ...change };
    if (paints && !['brush', 'point', 'fill'].includes(brush.tool)) return setBrush({ tool: 'brush' });
    if (!equal(brush, get('brush'))) put({ brush });
    showBrush();
  };
  const most = () => Math.max(8, cue ? Math.max(cue.w, cue.h) / cue.scale / 3 : 100);
  const showBrush = () => {
    for (const [name] of tools) $(`[data-do=${name}]`).setAttribute('aria-pressed', name === brush.tool);
    $('input[type=color]').value = brush.color; $('.cp-color code').textContent = brush.color;
    const set = (name, value, text) => { $(`input[name=${name}]`).value = value; $(`input[name=${name}]`).nextElementSibling.textContent = text; };
    set('size', Math.log(Math.max(1, brush.size)) / Math.log(most()), Math.round(brush.size)); set('opacity', brush.opacity, Math.round(brush.opacity * 100) + '%'); set('gap', brush.gap, brush.gap);
    $('.cp-gap').classList.toggle('cp-off', brush.tool !== 'fill');
    stage.dataset.tool = brush.tool;
    showRing();
  };
  const pointer = { x: 0, y: 0, inside: false };
  const showRing = () => {
    const d = cue && ['brush', 'point', 'eraser'].includes(brush.tool) && pointer.inside ? brush.size * cue.scale * view.zoom : 0;
    Object.assign(ring.style, { display: d ? '' : 'none', width: d + 'px', height: d + 'px', left: pointer.x - d / 2 + 'px', top: pointer.y - d / 2 + 'px' });
  };

  // ---- changing strokes
  const send = () => { note = ''; sent = { asked: (get('_asked') ?? 0) + 1, at: performance.now() }; put({ strokes, _asked: (get('_asked') ?? 0) + 1 }); status(); };
  const finish = stroke => {
    cue.end();
    strokes = [...strokes, stroke]; redo = [];
    if (stroke.color && stroke.tool !== 'eraser') { recent = [stroke.color, ...recent.filter(c => c !== stroke.color)].slice(0, 12); swatches(); }
    send();
  };
  const add = stroke => { show(cue.begin(stroke)); finish(stroke); };
  const undo = () => {
    if (!strokes.length || cue.live) return;
    redo = [...redo, strokes[strokes.length - 1]]; strokes = strokes.slice(0, -1);
    const box = cue.undo();
    if (!box) cue.replay(strokes);
    show(box ?? whole_page()); send();
  };
  const redoOne = () => {
    if (!redo.length || cue.live) return;
    const stroke = redo[redo.length - 1];
    redo = redo.slice(0, -1); strokes = [...strokes, stroke];
    show(cue.paint(stroke)); send();
  };
  const take = list => { strokes = list; redo = []; cue.replay(strokes); show(whole_page()); send(); };

  // ---- what the kernel changes
  let building = 0;
  const rebuild = async () => {
    const turn = ++building, [sketch, base] = await Promise.all([unpack(get('_sketch')), unpack(get('_base'))]);
    if (turn !== building || alive.signal.aborted) return;
    $('.cp-empty').hidden = !!sketch; page.hidden = !sketch;
    if (!sketch) { cue = null; status(); return; }
    const { w, h, pixels } = sketch, same = cue && cue.w === w && cue.h === h && equal(cue.scale, get('_scale'));
    cue = new Cue(pixels, w, h, get('_scale') || 1, base?.pixels);
    for (const name in layers) if (layers[name].width !== w || layers[name].height !== h) Object.assign(layers[name], { width: w, height: h });
    const grey = new ImageData(w, h);
    for (let k = 0; k < pixels.length; k++) { grey.data[4 * k] = grey.data[4 * k + 1] = grey.data[4 * k + 2] = pixels[k]; grey.data[4 * k + 3] = 255; }
    layers.sketch.getContext('2d').putImageData(grey, 0, 0);
    image = new ImageData(cue.px, w, h);
    Object.assign(page.style, { width: w + 'px', height: h + 'px' });
    strokes = get('strokes') ?? []; redo = [];
    cue.replay(strokes); show(whole_page());
    if (!same) fit();
    showBrush(); await drawn(); status();
  };
  let queued = false;
  const later = () => { if (!queued) { queued = true; queueMicrotask(() => { queued = false; rebuild(); }); } };
  let drawing = 0;
  const drawResult = async () => {
    const turn = ++drawing, bytes = bytesOf(get('_result')), context = layers.result.getContext('2d');
    const bitmap = bytes.length ? await createImageBitmap(new Blob([bytes])) : null;
    if (turn !== drawing || !cue) return;
    context.clearRect(0, 0, cue.w, cue.h);
    if (bitmap) context.drawImage(bitmap, 0, 0, cue.w, cue.h);
  };
  const delays = [];   // milliseconds from a stroke's end to its result on the page
  const drawn = async () => {
    await drawResult();
    root.dataset.drawn = get('_answered');
    if (sent && get('_answered') >= sent.asked) { delays.push(performance.now() - sent.at); sent = null; }
  };
  const gallery = () => {
    const ideas = get('_ideas') ?? [], box = $('.cp-gallery');
    box.hidden = !ideas.length;
    for (const old of box.querySelectorAll('img')) URL.revokeObjectURL(old.src);
    box.replaceChildren(...ideas.map((idea, i) => {
      const b = Object.assign(document.createElement('button'), { type: 'button', title: 'Take this one', onclick: () => take(idea.strokes) });
      b.append(Object.assign(new Image(), { src: URL.createObjectURL(new Blob([bytesOf(idea.picture)])), alt: `Proposal ${i + 1}` }));
      return b;
    }));
  };
  for (const name of ['_sketch', '_base', '_scale']) listen('change:' + name, later);
  listen('change:strokes', () => { if (get('strokes') !== strokes) later(); });
  listen('change:_result', () => { drawResult(); });
  for (const name of ['busy', 'error', '_answered']) listen('change:' + name, status);
  listen('change:_answered', drawn);
  for (const name of ['palette', '_found']) listen('change:' + name, swatches);
  listen('change:brush', () => { if (!equal(get('brush'), brush)) { brush = { ...brush, ...get('brush') }; showBrush(); } });
  listen('change:auto', () => { $('.cp-auto input').checked = get('auto'); status(); });
  listen('change:_ideas', gallery);
  listen('comm_live_update', lose);
  listen('msg:custom', (message, buffers) => {
    if (message?.say) { note = message.say; status(); }
    if (message?.file) keepFile(message.file, new Blob([bytesOf(buffers[0])]));
  });

  // ---- files
  const keepFile = (name, blob) => {
    const a = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: name });
    document.body.append(a); a.click(); a.remove();
    setTimeout(() => URL.revokeObjectURL(a.href), 60000);
  };
  const keepStrokes = () => keepFile('strokes.json', new Blob([JSON.stringify({ format: 1, strokes })], { type: 'application/json' }));
  const openFile = async f => {
    if (!f) return;
    if (f.size > 8e6) { note = 'More than 8 MB: open it in Python, painter.sketch = "page.png"'; return status(); }
    note = `Opening ${f.name}`; status();
    model.send({ do: 'open', name: f.name }, undefined, [await f.arrayBuffer()]);
  };
  on(file, 'change', () => { openFile(file.files[0]); file.value = ''; });
  on(stage, 'dragover', e => e.preventDefault());
  on(stage, 'drop', e => { e.preventDefault(); openFile(e.dataTransfer.files[0]); });

  // ---- the pointer
  const at = e => {
    const r = stage.getBoundingClientRect(), x = e.clientX - r.left - stage.clientLeft, y = e.clientY - r.top - stage.clientTop;
    const s = view.zoom * (cue?.scale ?? 1), pressure = e.pointerType === 'pen' ? Math.round(100 * e.pressure) / 100 : 0.5;
    return { x, y, point: [Math.round(10 * (x - view.x) / s) / 10, Math.round(10 * (y - view.y) / s) / 10, pressure] };
  };
  const pick = ([x, y]) => {
    const i = Math.floor(x * cue.scale), j = Math.floor(y * cue.scale);
    if (!(i >= 0 && i < cue.w && j >= 0 && j < cue.h)) return;
    const o = 4 * (j * cue.w + i);
    let [r, g, b, a] = cue.px.slice(o, o + 4);
    if (a < 64 || !shown.cue) [r, g, b, a] = layers.result.getContext('2d').getImageData(i, j, 1, 1).data;
    if (a) setBrush({ color: hex(r, g, b) }, brush.tool !== 'pick');
  };
  const touches = new Map();
  let held = null, pinch = null, space = false, pen = false;
  const drop = () => { if (held?.stroke && cue.live) show(cue.cancel()); held = null; };
  on(stage, 'pointerdown', e => {
    if (e.target.closest('.cp-banner,.cp-help')) return;
    root.focus({ preventScroll: true });
    if (!cue || held && e.pointerType !== 'touch') return;
    e.preventDefault();
    try { stage.setPointerCapture(e.pointerId); } catch {}
    const { x, y, point } = at(e);
    if (e.target.closest('.cp-wipe')) { held = { wipe: true, id: e.pointerId }; return; }
    if (e.pointerType === 'pen') pen = true;
    if (e.pointerType === 'touch') {
      touches.set(e.pointerId, { x, y });
      if (touches.size === 2) { drop(); const [p, q] = [...touches.values()]; pinch = { d: Math.hypot(p.x - q.x, p.y - q.y), x: (p.x + q.x) / 2, y: (p.y + q.y) / 2 }; return; }
      if (touches.size > 2) return;
    }
    if (e.button === 1 || space || brush.tool === 'hand' || pen && e.pointerType === 'touch') { held = { pan: true, id: e.pointerId, x, y }; stage.classList.add('cp-moving'); return; }
    if (e.button !== 0 && e.button !== 5) return;
    if (e.altKey || brush.tool === 'pick') { pick(point); held = { pick: true, id: e.pointerId }; return; }
    const tool = e.buttons & 32 ? 'eraser' : brush.tool, stroke = { tool, color: brush.color, size: brush.size, opacity: tool === 'point' ? 1 : brush.opacity, points: [point] };
    if (tool === 'eraser') { delete stroke.color; stroke.opacity = 1; }
    if (tool === 'fill') { delete stroke.size; stroke.gap = brush.gap; if (inside(point)) add(stroke); return; }
    held = { stroke, id: e.pointerId };
    show(cue.begin(stroke));
  });
  const inside = ([x, y]) => x >= 0 && y >= 0 && x * cue.scale < cue.w && y * cue.scale < cue.h;
  on(stage, 'pointermove', e => {
    const { x, y, point } = at(e);
    Object.assign(pointer, { x, y, inside: e.pointerType !== 'touch' });
    showRing();
    if (touches.has(e.pointerId)) touches.set(e.pointerId, { x, y });
    if (pinch && touches.size === 2) {
      const [p, q] = [...touches.values()], d = Math.hypot(p.x - q.x, p.y - q.y), cx = (p.x + q.x) / 2, cy = (p.y + q.y) / 2;
      view.x += cx - pinch.x; view.y += cy - pinch.y;
      if (pinch.d > 10) zoomBy(d / pinch.d, cx, cy);
      pinch = { d, x: cx, y: cy };
      return;
    }
    if (!held || held.id !== e.pointerId) return;
    if (held.wipe) { compare = clip((x - view.x) / (cue.w * view.zoom), 0, 1); place(); }
    else if (held.pan) { view = { ...view, x: view.x + x - held.x, y: view.y + y - held.y, fitted: false }; held.x = x; held.y = y; place(); }
    else if (held.pick) pick(point);
    else if (held.stroke.tool !== 'point') {
      const { points, size } = held.stroke, least = Math.max(0.7, size / 16);
      for (const c of e.getCoalescedEvents?.().length ? e.getCoalescedEvents() : [e]) {
        const { point } = at(c), last = points[points.length - 1];
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= least) points.push(point);
      }
      show(cue.extend());
    }
  });
  const release = e => {
    touches.delete(e.pointerId);
    if (touches.size < 2) pinch = null;
    if (!held || held.id !== e.pointerId) return;
    stage.classList.remove('cp-moving');
    const { stroke } = held;
    held = null;
    if (!stroke || !cue.live) return;
    if (e.type === 'pointercancel') { show(cue.cancel()); return; }
    const { point } = at(e), last = stroke.points[stroke.points.length - 1];
    if (stroke.tool !== 'point' && Math.hypot(point[0] - last[0], point[1] - last[1]) > 0.3) { stroke.points.push(point); show(cue.extend()); }
    if (cue.live.box[0] < cue.live.box[2] && cue.live.box[1] < cue.live.box[3]) finish(stroke); else cue.cancel();
  };
  on(stage, 'pointerup', release);
  on(stage, 'pointercancel', release);
  on(stage, 'pointerleave', () => { pointer.inside = false; showRing(); });
  on(stage, 'contextmenu', e => e.preventDefault());
  on(stage, 'wheel', e => {
    if (!cue || !(e.ctrlKey || root.contains(document.activeElement))) return;   // a page that scrolls past must not be trapped
    e.preventDefault();
    const { x, y } = at(e);
    zoomBy(Math.exp(-clip(e.deltaY * (e.deltaMode ? 16 : 1), -240, 240) / (e.ctrlKey ? 120 : 400)), x, y);
  }, { passive: false });

  // ---- buttons, sliders, keys
  const toggle = name => { shown[name] = shown[name] ? 0 : name === 'cue' ? 0.6 : 1; setLayers(); };
  const actions = {
    undo, redo: redoOne, clear: () => cue && strokes.at(-1)?.tool !== 'clear' && add({ tool: 'clear' }), fit, open: () => file.click(), keep: keepStrokes,
    compare: () => { compare = compare === null ? 0.5 : null; place(); $('[data-do=compare]').setAttribute('aria-pressed', compare !== null); },
    help: () => { $('.cp-help').hidden = !$('.cp-help').hidden; }, paint: () => { put({ _asked: (get('_asked') ?? 0) + 1 }); model.send({ do: 'paint' }); status(); },
    ideas: () => model.send({ do: 'ideas' }), save: () => model.send({ do: 'save' }), download: () => model.send({ do: 'download' }),
  };
  on(root, 'click', e => {
    const name = e.target.closest('[data-do]')?.dataset.do;
    if (!name) return;
    if (actions[name]) actions[name](); else setBrush({ tool: name });
  });
  on(root, 'input', e => {
    const { name, value, type } = e.target;
    if (type === 'color') setBrush({ color: value }, true);
    else if (name === 'size') setBrush({ size: Math.round(most() ** value) });
    else if (name === 'opacity' || name === 'gap') setBrush({ [name]: Number(value) });
    else if (name in shown) { shown[name] = Number(value); setLayers(); }
    else if (type === 'checkbox') { put({ auto: e.target.checked }); status(); }
  });
  const keys = { b: 'brush', p: 'point', e: 'eraser', g: 'fill', i: 'pick', h: 'hand' };
  on(root, 'keydown', e => {
    const key = e.key.toLowerCase(), control = e.ctrlKey || e.metaKey;
    let used = true;
    if (control && key === 'z') e.shiftKey ? redoOne() : undo();
    else if (control && key === 'y') redoOne();
    else if (control && key === 's') { if (cue && !lost) actions.save(); }
    else if (control || e.altKey) used = false;
    else if (key === ' ' && !e.target.closest('button')) { space = true; stage.classList.add('cp-space'); }
    else if (e.target.matches('input[type=range]') && /^arrow|^page|home|end/.test(key)) used = false;
    else if (keys[key]) setBrush({ tool: keys[key] });
    else if (key === '[' || key === ']') setBrush({ size: clip(Math.round(brush.size * (key === '[' ? 1 / 1.2 : 1.2) + (key === '[' ? -0.5 : 0.5)), 1, most()) });
    else if (key === '+' || key === '=') zoomBy(1.25);
    else if (key === '-') zoomBy(0.8);
    else if (key === '0') fit();
    else if (key === '1' || key === '2' || key === '3') toggle(['sketch', 'result', 'cue'][key - 1]);
    else if (key === 'c') actions.compare();
    else if (key === '?') actions.help();
    else if (key === 'escape') { drop(); $('.cp-help').hidden = true; }
    else if (key === 'enter' && !e.target.closest('button')) { if (!lost) actions.paint(); }
    else used = false;
    if (used) { e.preventDefault(); e.stopPropagation(); }
  });
  on(root, 'keyup', e => { if (e.key === ' ') { space = false; stage.classList.remove('cp-space'); } });
  on(root, 'focusout', () => { space = false; stage.classList.remove('cp-space'); });

  // ---- theme and size
  const theme = () => { root.dataset.theme = isDark(el) ? 'dark' : 'light'; };
  const themes = new MutationObserver(theme);
  for (const e of [document.body, document.documentElement]) themes.observe(e, { attributes: true });
  const sizesSeen = new ResizeObserver(() => view.fitted ? fit() : place());
  sizesSeen.observe(stage);

  $('.cp-auto input').checked = get('auto');
  theme(); setLayers(); swatches(); showBrush(); gallery(); place(); status();
  const ready = rebuild();
  root.cuePainter = { ready, delays, asked: () => get('_asked') ?? 0, cue: () => cue && { w: cue.w, h: cue.h, pixels: new Uint8Array(cue.px) }, strokes: () => strokes, toClient: (x, y) => {
    const r = stage.getBoundingClientRect(), s = view.zoom * cue.scale;
    return [r.left + stage.clientLeft + view.x + x * s, r.top + stage.clientTop + view.y + y * s];
  } };
  return () => {
    alive.abort(); themes.disconnect(); sizesSeen.disconnect(); clearTimeout(timer);
    for (const [name, f] of listeners) model.off(name, f);
    root.remove();
  };
}

export default { render };
