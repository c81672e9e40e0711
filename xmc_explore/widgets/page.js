// What only the page can do for the laboratory. It draws nothing.

// Of all views of a laboratory. Plotly draws for some 50 ms at a time, and no answer to a hand gets through: what comes
// for the curves waits until the hand has rested, though not for ever.
const REST = 300, MOST = 1000; // milliseconds
let views = 0, moved = -REST, curves = null, taken = Promise.resolve();

async function rested(arrived) {
  for (;;) {
    const left = Math.min(moved + REST, arrived + MOST) - performance.now();
    if (left <= 0) return;
    await new Promise((done) => setTimeout(done, left));
  }
}

async function hold(model) {
  if (!model.get("curves")) return;
  const found = await model.widget_manager.get_model(model.get("curves"));
  if (!views || Object.hasOwn(found, "set_state")) return; // held back already
  curves = found;
  curves.once("destroy", () => (found.comm_live = false)); // or plotly speaks on when the kernel has closed it
  const take = curves.set_state;
  curves.set_state = (state) => {
    const arrived = performance.now();
    const drawn = taken.then(() => rested(arrived)).then(() => (spare(found), take.call(found, state)));
    taken = drawn.catch(() => {}); // what plotly cannot draw must not hold back what comes after it
    return drawn;
  };
}

// A view of plotly's that is closed goes on listening, and throws at whatever comes: those after it would hear nothing.
function spare(figure) {
  for (const [name, listeners] of Object.entries(figure._events ?? {}))
    for (const one of name.startsWith("change:_py2js") ? listeners : []) {
      const hear = one.callback;
      if (hear.spared) continue;
      one.callback = (...said) => {
        try {
          hear(...said);
        } catch (error) {
          const closed = figure._events[name].length - 1 - Object.keys(figure.views ?? {}).length; // one is the model's
          if (closed <= 0) throw error;
          figure.off(name, one.callback);
        }
      };
      one.callback.spared = true;
    }
}

function render({ model, el }) {
  el.style.display = "none";
  const lab = () => el.closest(".xmc-lab");
  const set = (name, value) => (model.set(name, value), model.save_changes());

  const present = () => document.body.classList.toggle("xmc-presenting", model.get("presenting"));
  const leave = (event) => event.key === "Escape" && model.get("presenting") && set("presenting", false);

  async function copy() {
    const [text, number] = model.get("copy");
    const field = lab()?.querySelector(".xmc-share input");
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a page without https has no clipboard; the old way needs a field
      field?.select();
      if (!document.execCommand("copy")) return;
    }
    set("copied", number);
  }

  // noUiSlider's handles have labels beside them that a screen reader does not connect, and some boxes have none; an
  // icon is a letter of its font, which would be read out before the word.
  function name() {
    for (const icon of lab()?.querySelectorAll(".jupyter-button > i") ?? []) icon.setAttribute("aria-hidden", "true");
    for (const box of lab()?.querySelectorAll(".xmc-toolbar :is(input, select)") ?? [])
      box.setAttribute("aria-label", box.matches("input") ? "Steps that the button before it takes" : "Preset");
    for (const row of lab()?.querySelectorAll(".widget-slider") ?? []) {
      const handle = row.querySelector(".noUi-handle");
      const label = row.querySelector(".widget-label")?.innerText;
      if (!handle || !label) continue;
      handle.setAttribute("aria-label", label);
      const readout = row.querySelector(".widget-readout")?.innerText;
      if (readout) handle.setAttribute("aria-valuetext", readout);
      handle.parentElement?.closest("[tabindex]:not(.noUi-handle)")?.setAttribute("tabindex", "-1");
    }
    // A slider among given values says it as text that can be edited, to no effect.
    for (const said of lab()?.querySelectorAll(".xmc-body .widget-readout") ?? [])
      if (said.isContentEditable) said.contentEditable = "false";
  }

  const pressed = (button) => button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
  const WATCHED = ["class", "contenteditable"];
  const TOGGLES = ".jupyter-toggle-button, .widget-toggle-button";

  // Of the answer to a press, Jupyter's server sends the first packet ("busy") and holds back the rest until that one
  // is acknowledged (Nagle's algorithm), for which a page that has nothing to send takes 40 ms or more. So it sends
  // something.
  const NUDGES = [10, 20, 30, 45, 60]; // milliseconds after the press
  let nudged = 0;
  const send = () => {
    try {
      model.send({});
    } catch {} // the kernel was restarted: nobody is there to answer
  };
  function nudge(event) {
    if (event.type === "pointermove" && !event.buttons) return;
    if (performance.now() < nudged + NUDGES.at(-1)) return;
    nudged = performance.now();
    for (const ms of NUDGES) setTimeout(send, ms);
  }
  const PRESSES = ["click", "change", "keydown", "pointermove"];

  views += 1;
  const move = (event) => (event.type !== "pointermove" || event.buttons) && (moved = performance.now());
  hold(model);

  // anywidget gives a widget two seconds to load its script, and drops whatever the kernel says to it from then on. On
  // a busy machine plotly's script takes longer. Messages then go past anywidget, and the kernel says all of it again.
  let gone = false;
  async function listen() {
    const drawn = async (widget) => (await Promise.all(Object.values(widget.views ?? {})))
      .some((view) => view.el.contains(el) || view.el.querySelector("canvas, svg"));
    const deaf = [];
    for (const id of model.get("parts")) {
      const widget = await model.widget_manager.get_model(id);
      try {
        await widget._handle_comm_msg({ content: { data: { method: "" } } });
      } catch {
        while (!(gone || await drawn(widget))) await new Promise((done) => setTimeout(done, 100));
        const take = Object.getPrototypeOf(Object.getPrototypeOf(widget))._handle_comm_msg;
        widget.comm.on_msg((message) => take.call(widget, message));
        deaf.push(id);
      }
    }
    if (deaf.length && !gone) set("deaf", deaf);
  }
  listen();
  const NARROW = 960; // pixels; lab.css has the same
  let wide = 0;
  const sized = new ResizeObserver(([{ contentRect: { width } }]) => {
    if (width && width <= NARROW !== model.get("narrow")) set("narrow", width <= NARROW);
    if (width === wide || lab()?.querySelector("canvas[role=img]")) return; // a canvas tells the curves beside it
    wide = width;
    window.dispatchEvent(new Event("resize")); // Plotly follows the window and no more
  });

  let due = 0;
  const watcher = new MutationObserver((changes) => {
    for (const { target } of changes) if (target.matches?.(TOGGLES)) pressed(target);
    clearTimeout(due);
    due = setTimeout(name, 100);
  });
  const watch = setInterval(() => {
    if (!lab()) return;
    clearInterval(watch);
    name();
    for (const button of lab().querySelectorAll(TOGGLES)) pressed(button);
    sized.observe(lab());
    for (const press of PRESSES) lab().addEventListener(press, nudge, { capture: true, passive: true });
    for (const press of ["pointerdown", ...PRESSES])
      lab().addEventListener(press, move, { capture: true, passive: true });
    for (const knobs of lab().querySelectorAll(".xmc-toolbar, .xmc-knobs, .xmc-scrubber"))
      watcher.observe(knobs, { childList: true, subtree: true, characterData: true, attributeFilter: WATCHED });
  }, 50);

  model.on("change:presenting", present);
  model.on("change:copy", copy);
  document.addEventListener("keydown", leave);
  if (model.get("presenting")) present(); // another laboratory's page may be
  return () => {
    gone = true;
    model.off("change:presenting", present);
    model.off("change:copy", copy);
    document.removeEventListener("keydown", leave);
    clearInterval(watch);
    watcher.disconnect();
    views -= 1;
    if (!views) delete curves?.set_state;
    sized.disconnect();
    if (model.get("presenting")) document.body.classList.remove("xmc-presenting");
  };
}

export default { render };
