"use strict";
// The page draws what it is told by /events, and sends orders to /do. It decides nothing.

const SVG = "http://www.w3.org/2000/svg";
const COAT = "M-5-15H5L13-10 17 4 12 5 10-1 12 17H-12L-10-1-12 5-17 4-13-10Z";
const stage = document.getElementById("stage");
const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let state = null;
let places = {};
const coats = new Map(); // "who@where" to its drawing, so that a coat moves rather than vanishes

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function words(cart, unsure) {
  if (cart === null || cart === undefined) return "not looked yet";
  if (unsure && Object.keys(unsure).length) return `${words(cart)}, and perhaps ${words(unsure)}`;
  const entries = Object.entries(cart).sort();
  return entries.length ? entries.map(([item, count]) => `${count} ${item}`).join(", ") : "nothing";
}

async function order(what, thing, link) {
  const answer = await fetch("/do", {
    method: "POST",
    headers: { "content-type": "application/json", "x-coatcheck": "1" },
    body: JSON.stringify({ do: what, what: thing || "", link: link || "" }),
  });
  if (!answer.ok) tell(await answer.text());
}

function tell(text) {
  const item = document.createElement("li");
  item.textContent = text;
  byId("news").prepend(item);
  while (byId("news").children.length > 30) byId("news").lastChild.remove();
}

// --- the stage ---------------------------------------------------------------------------------------------------------

const layers = {};
for (const name of ["wires", "boxes", "coats", "dots"]) layers[name] = draw(stage, "g", {});

function layOut() {
  places = { balancer: [300, 220] };
  state.people.forEach((person, at) => (places[person.name] = [70, 50 + at * 68]));
  Object.keys(state.servers).forEach((name, at) => (places[name] = [state.service ? 590 : 740, 80 + at * 140]));
  if (state.service) places.store = [890, 220];
}

function drawParts() {
  layers.wires.replaceChildren();
  layers.boxes.replaceChildren();
  const wire = (from, to, kind) =>
    draw(layers.wires, "path", { d: `M${from[0]} ${from[1]}L${to[0]} ${to[1]}`, class: `wire ${kind}` });
  const box = (name, x, y, width, height, kind, title, small) => {
    draw(layers.boxes, "rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 12, class: `box ${kind}` });
    draw(layers.boxes, "text", { x: x - width / 2 + 14, y: y - height / 2 + 24, class: "name" }, title);
    if (small) draw(layers.boxes, "text", { x: x + width / 2 - 14, y: y - height / 2 + 24, class: "small", "text-anchor": "end" }, small);
  };
  state.people.forEach((person, at) => {
    const [x, y] = places[person.name];
    wire([x + 20, y], places.balancer, "");
    draw(layers.boxes, "circle", { cx: x, cy: y, r: 17, fill: `var(--p${at})` });
    draw(layers.boxes, "text", { x: x, y: y + 34, class: "small", "text-anchor": "middle" }, person.name);
    if (person.right !== null) {
      draw(layers.boxes, "text", { x: x - 26, y: y + 6, class: "name", "text-anchor": "end" }, person.right ? "✓" : "✗").style.fill =
        `var(--${person.right ? "good" : "bad"})`;
    }
  });
  const names = Object.keys(state.servers);
  const isCut = (name, link) => (state.cuts[name] || []).includes(link);
  names.forEach((name, at) => {
    const how = state.servers[name];
    const [x, y] = places[name];
    wire(places.balancer, [x - 105, y], how === "down" ? "down" : isCut(name, "balancer") ? "cut" : "");
    if (places.store) {
      const down = how === "down" || state.serviceState === "down";
      wire([x + 105, y], places.store, down ? "down" : isCut(name, "store") ? "cut" : "");
    }
    if (state.links.includes("peers")) {
      for (const other of names.slice(at + 1)) {
        const down = how === "down" || state.servers[other] === "down";
        const kind = down ? "down" : isCut(name, "peers") || isCut(other, "peers") ? "cut" : "";
        const from = [x + 105, y], to = [places[other][0] + 105, places[other][1]];
        const bend = 30 + 40 * (names.indexOf(other) - at);
        draw(layers.wires, "path", { d: `M${from[0]} ${from[1]}C${from[0] + bend} ${from[1]} ${to[0] + bend} ${to[1]} ${to[0]} ${to[1]}`, class: `wire peer ${kind}` });
      }
    }
    const small = how === "down" ? "down" : (state.cuts[name] || []).length ? "link cut" : "";
    box(name, x, y, 210, 100, `server ${small === "link cut" ? "cut" : how}`, name, small);
  });
  box("balancer", ...places.balancer, 130, 64, "", "balancer", "");
  draw(layers.boxes, "text", { x: places.balancer[0] - 51, y: places.balancer[1] + 18, class: "small" }, state.sticky ? "pins people" : "takes turns");
  if (places.store) {
    const down = state.serviceState === "down";
    box("store", ...places.store, 190, 150, `store server ${down ? "down" : "up"}`, state.service, down ? "down" : "");
  }
}

function drawCoats() {
  const wanted = new Map();
  for (const [where, owners] of Object.entries(state.coats)) {
    if (!places[where]) continue;
    owners.forEach((owner, at) => {
      const [x, y] = places[where];
      const inStore = where === "store";
      const column = inStore ? at % 3 : at, row = inStore ? Math.floor(at / 3) : 0;
      const to = inStore ? [x - 52 + column * 52, y - 8 + row * 46] : [x - 80 + column * 33, y + 20];
      wanted.set(`${owner}@${where}`, { owner, to });
    });
  }
  for (const [key, drawing] of coats) {
    if (!wanted.has(key)) {
      drawing.remove();
      coats.delete(key);
    }
  }
  for (const [key, { owner, to }] of wanted) {
    let coat = coats.get(key);
    if (!coat) {
      coat = draw(layers.coats, "g", { class: "coat" });
      const who = state.people.findIndex((person) => person.name === owner);
      draw(coat, "path", { d: COAT, fill: `var(--p${who})` });
      draw(coat, "path", { d: "M-5-15L0-7 5-15M0-7V17", class: "seam" });
      draw(coat, "title", {}, `${owner}'s session`);
      const home = places[owner] || to;
      coat.style.transform = `translate(${home[0]}px, ${home[1]}px)`; // it comes from its owner
      coat.getBoundingClientRect();
      coats.set(key, coat);
    }
    coat.style.transform = `translate(${to[0]}px, ${to[1]}px)`;
  }
}

function flow(request) {
  if (!state || calm.matches || document.hidden || layers.dots.childElementCount > 40) return;
  const person = state.people[request.who];
  const way = [places[person.name], places.balancer];
  if (places[request.server]) {
    way.push(places[request.server]);
    if (request.store && places.store) way.push(places.store, places[request.server]);
    way.push(places.balancer);
  }
  way.push(places[person.name]);
  const fill = request.status === 200 ? `var(--p${request.who})` : "var(--bad)";
  const dot = draw(layers.dots, "circle", { r: 6, fill, class: "dot-moving" });
  const frames = way.map(([x, y]) => ({ transform: `translate(${x}px, ${y}px)` }));
  dot.animate(frames, { duration: 220 * way.length, easing: "linear" }).finished.finally(() => dot.remove());
}

// --- the words ---------------------------------------------------------------------------------------------------------

function showArchitectures() {
  const group = byId("architectures");
  for (const { name, title } of FACTS.architectures) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "architecture", value: name });
    input.addEventListener("change", () => order("build", name));
    label.append(input, name);
    label.title = title;
    group.append(label);
  }
  for (const item of FACTS.goods) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: `Put in a ${item}`.replace("a boots", "boots") });
    button.addEventListener("click", () => order("add", item));
    byId("goods").append(button);
  }
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => order(button.dataset.do));
  }
  byId("pause").addEventListener("click", () => order(state && state.paused ? "go" : "pause"));
}

function showCart() {
  const you = state.people[0];
  byId("expected").textContent = words(you.expected, you.unsure);
  byId("seen").textContent = words(you.seen);
  const verdict = byId("verdict");
  const text =
    you.trouble ? `Your cart was not shown: ${you.trouble}. Try again.` : you.right === null ? "Put something in." : you.right ? `Right, says ${you.server}.` : `Wrong: ${you.server} shows something else.`;
  if (verdict.textContent !== text) verdict.textContent = text;
  verdict.className = `verdict ${you.trouble || you.right === null ? "" : you.right ? "right" : "wrong"}`;
}

const rows = new Map(); // kept, so that the focus stays on a button that is pressed

function row(name) {
  if (rows.has(name)) return rows.get(name);
  const item = document.createElement("li");
  const title = Object.assign(document.createElement("span"), { className: "name" });
  const buttons = [0, 1, 2].map(() => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.addEventListener("click", () => order(button.dataset.order, button.dataset.thing, button.dataset.link));
    return button;
  });
  item.append(title, ...buttons);
  byId("parts").append(item);
  rows.set(name, { item, title, buttons });
  return rows.get(name);
}

const LINKS = { balancer: "balancer link", store: "store link", peers: "peer links" };

function label(button, what, thing, text, danger, fine, link) {
  Object.assign(button.dataset, { order: what, thing, link: link || "" });
  button.textContent = text;
  button.className = danger ? "danger" : "";
  button.setAttribute("aria-label", `${text}: ${thing || "the store"}`);
  button.disabled = !fine;
}

function showParts() {
  const idle = !state.busy;
  const names = [...Object.keys(state.servers), ...(state.service ? ["store"] : [])];
  for (const [name, { item }] of rows) {
    if (!names.includes(name)) {
      item.remove();
      rows.delete(name);
    }
  }
  for (const [name, how] of Object.entries(state.servers)) {
    const { title, buttons } = row(name);
    const hanging = state.coats[name] ? `, ${state.coats[name].length} coats` : "";
    const cuts = state.cuts[name] || [];
    title.textContent = `${name}: ${how}${cuts.map((link) => `, ${LINKS[link]} cut`).join("")}${hanging}`;
    if (how === "down") label(buttons[0], "revive", name, "Revive", false, idle);
    else label(buttons[0], "kill", name, "Kill", true, idle);
    buttons.slice(1).forEach((button, at) => {
      const link = state.links[at];
      button.hidden = how === "down" || !link;
      if (button.hidden) return;
      if (cuts.includes(link)) label(button, "mend", name, `Mend ${LINKS[link]}`, false, idle, link);
      else label(button, "cut", name, `Cut ${LINKS[link]}`, true, idle, link);
    });
  }
  if (state.service) {
    const { item, title, buttons } = row("store");
    byId("parts").append(item);
    const hanging = state.coats.store ? `, ${state.coats.store.length} coats` : "";
    title.textContent = `${state.service}: ${state.serviceState}${hanging}`;
    if (state.serviceState === "down") label(buttons[0], "revive-store", "", "Revive", false, idle);
    else label(buttons[0], "kill-store", "", "Kill", true, idle);
    buttons[1].hidden = buttons[2].hidden = true;
  }
}

function showPeople() {
  const body = byId("people");
  body.replaceChildren();
  state.people.forEach((person, at) => {
    const where = Object.entries(state.coats).filter(([, owners]) => owners.includes(person.name)).map(([name]) => name);
    const line = document.createElement("tr");
    line.className = person.trouble || person.right === null ? "" : person.right ? "right" : "wrong";
    const cells = [
      person.name, words(person.expected, person.unsure), words(person.seen),
      person.trouble || (person.right === null ? "-" : person.right ? "yes" : "no"), person.server || "-", where.join(", ") || "nowhere",
    ];
    cells.forEach((text, column) => {
      const cell = document.createElement(column ? "td" : "th");
      if (!column) {
        cell.scope = "row";
        const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
        swatch.style.background = `var(--p${at})`;
        cell.append(swatch);
      }
      cell.append(text);
      line.append(cell);
    });
    body.append(line);
  });
}

function show() {
  layOut();
  drawParts();
  drawCoats();
  showCart();
  showParts();
  showPeople();
  const busy = state.busy ? `${state.busy} …` : "";
  if (byId("busy").textContent !== busy) byId("busy").textContent = busy;
  byId("pause").setAttribute("aria-pressed", String(state.paused));
  for (const input of document.querySelectorAll("#architectures input")) {
    input.disabled = Boolean(state.busy);
    if (!state.busy) input.checked = input.value === state.architecture;
  }
}

showArchitectures();
const events = new EventSource("/events");
events.addEventListener("state", (event) => {
  state = JSON.parse(event.data);
  show();
});
events.addEventListener("request", (event) => flow(JSON.parse(event.data)));
events.addEventListener("news", (event) => tell(JSON.parse(event.data)));
events.addEventListener("error", () => {
  byId("busy").textContent = "The lab has stopped, or is out of reach.";
});
