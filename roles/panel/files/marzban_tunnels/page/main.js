// SPDX-License-Identifier: AGPL-3.0-or-later
// The page: what is known, what is shown of it, and who is told when it changes.

import { $, el, setAttribute, setText } from "./dom.js";
import * as api from "./api.js";
import * as changes from "./changes.js";
import { Detail } from "./detail.js";
import { Events } from "./events.js";
import { Form } from "./form.js";
import { Graph } from "./graph.js";
import { ago, choose, collator, LANGUAGES, load, number, preferred, t } from "./i18n.js";
import { Known } from "./known.js";
import { COLUMNS, List, STATUS_WORDS } from "./list.js";
import { askLogin } from "./login.js";
import { counts, isFiltered, isStale, matcher, noFilter, replaced, sorted, STATUSES, statusOf, TYPES } from "./model.js";
import { Nodes } from "./nodes.js";
import { Poll } from "./poll.js";
import { explain } from "./problems.js";
import { Services } from "./services.js";
import { Soon } from "./soon.js";

const APPLY = "ansible-playbook marzban.tunnels.apply";
const WIDE = matchMedia("(min-width: 70rem)");
const NARROW = matchMedia("(max-width: 48rem)");

const NET = 300_000; // milliseconds; while the panel tells by itself what is new, all is read this often nevertheless
const SETTLED = 5000; // as often are rows put in another order because of what was measured

let tunnels = new api.Tunnels();
let services = new Services();
let nodes = [];
let known = new Known();
let order = []; // the rows as they are sorted
let ordered = 0; // when
let asked = 0; // how often a read of all was needed, and
let answered = 0; // the last of these that is done
let everything = 0; // when all was read
let ticked = 0; // when ages were looked at last
const strangers = new Set(); // nodes that are known, or were asked for once
let trouble = null; // why what we know isn't newer
let filter = noFilter();
let sort = { by: "status", down: false };

const list = new List(open, sortBy);
const graph = new Graph((change) => filterBy(Object.entries(change).every(([key, value]) => filter[key] === value) ? { node: "", pair: "" } : change));
const form = new Form((record, created) => keep(record, created ? "notice.created" : "notice.saved"));
const detail = new Detail({
    edit: (row) => form.open(row.record, nodes),
    toggle: (row) => attempt(async () => keep(await changes.toggle(row), row.record.is_active ? "notice.deactivated" : "notice.activated")),
    remove: async (row) => {
        if (!(await changes.remove(row, services.actsOn(row.ids)))) return;
        known.remove(row);
        detail.close();
        changed("notice.deleted", row.label, row.ids);
    },
});
const service = new Nodes((node) => {
    services.keep(node);
    service.update(services, filter.node, Date.now());
    if (!events.on) poll.hurry();
}, () => poll.now());
const poll = new Poll(
    async () => {
        const [turn, wanted] = [known.turn, asked];
        const all = !events.on || wanted > answered || Date.now() - everything > NET;
        const found = await Promise.all([api.call("GET", "nodes"), all && tunnels.read(), (all || service.isOpen) && services.read(wanted > answered)]);
        return { found, all, turn, wanted, moment: Date.now() };
    },
    ({ found, all, turn, wanted, moment }) => {
        [nodes, trouble] = [found[0], null];
        if (all) {
            known.read(found[1], turn, moment);
            [answered, everything] = [wanted, moment];
        }
        arrange();
    },
    (problem) => {
        trouble = explain(problem);
        tick();
    },
);
const soon = new Soon(draw);
const events = new Events(
    (name, told, now) => {
        if (name === "hello" && !told?.resumed) readAll();
        else if (name === "beat") known.confirmed(now);
        else if (name === "tunnels") learn(known.changed(told ?? {}, now));
        else if (name === "measured") {
            tunnels.forget();
            const { ids, turned } = known.measured(told ?? {}, now);
            soon.add(ids, turned ? { told: true } : {});
            services.heard(told?.ends, known.rows, now);
        } else if (name === "nodes") {
            services.changed(told, now);
            soon.add([], { services: true });
        }
    },
    (on) => {
        poll.rest(on);
        tick();
    },
);

/** What an event has told about tunnels. */
function learn({ ids, others }) {
    tunnels.forget();
    for (const node of nodes) strangers.add(node.id);
    const unknown = [...ids].flatMap((id) => known.rows.get(id)?.ids ?? []).filter((id) => !strangers.has(id));
    for (const id of unknown) strangers.add(id);
    if (unknown.length) poll.now(); // a new node
    soon.add(ids, { told: true, others });
}

/** What we know may be of another time than what the panel tells from now on. */
function readAll() {
    asked += 1;
    poll.now();
}

/** A record that the panel has just given. */
function keep(record, notice) {
    known.keep(record, Date.now());
    changed(notice, record.name ?? `#${record.id}`, [record.source_node_id, record.target_node_id]);
    $(`tunnel-${record.id}`)?.focus({ preventScroll: false });
}

function changed(notice, name, ids) {
    const acts = services.actsOn(ids);
    const how = acts ? [t("notice.acts")] : [t("notice.run"), " ", el("code", { dir: "ltr" }, APPLY)];
    const close = el("button", { class: "quiet close", "aria-label": t("page.close"), on: { click: () => $("notice").replaceChildren() } }, "×");
    $("notice").replaceChildren(el("p", {}, t(notice, { name }), " ", ...how), close);
    arrange();
    if (events.on) return; // what follows from it comes by itself
    if (acts) poll.hurry();
    else poll.now(true);
}

/** Do what a button of the detail asks for; what goes wrong is said there. */
async function attempt(work) {
    detail.problem("");
    try {
        await work();
    } catch (problem) {
        detail.problem(problem.status === 412 ? t("error.changed") : explain(problem));
        asked += 1;
        poll.now(true);
    }
}

function open(id) {
    if (known.rows.has(id)) detail.open(known.rows.get(id), Date.now());
}

/** Other rows, or another order. */
function arrange() {
    order = sorted([...known.rows.values()], sort, collator());
    ordered = Date.now();
    fillFilters();
    render();
    graph.render(nodes, order, filter, Date.now(), services);
    const shown = known.rows.get(detail.id);
    if (shown) detail.update(shown, Date.now());
    else if (detail.id !== null) detail.close(); // somebody has deleted it
}

/** Other choices of what is shown. Runs at each key that is typed into the search. */
function render() {
    place(Date.now());
    tick();
}

/** The list. `changed`: the ids of the rows that are not as they were drawn; undefined for all. */
function place(now, changed) {
    const { rows, received } = known;
    const shown = order.filter(matcher(filter, now));
    service.update(services, filter.node, now);
    list.render(shown, sort, now, (id) => rows.has(id), changed);
    setText($("count"), rows.size ? t("list.count", { shown: number(shown.length), all: number(rows.size) }) : "");
    setText($("empty"), received === 0 ? t("list.loading") : rows.size ? t("list.nothing") : t("list.empty"));
    $("empty").hidden = shown.length > 0;
    $("clear").hidden = !isFiltered(filter);
    const folded = [filter.type, filter.node].filter(Boolean).length;
    setText($("filters-set"), folded ? number(folded) : "");
}

/** What events have changed: tunnels, by id; `told`: other things than measurements too; `others`: there are more or fewer. */
function draw(ids, { told, others, services: of }) {
    const now = Date.now();
    if (others) return arrange();
    if (told) {
        order = replaced(order, ids, sort, collator());
        place(now, ids);
        head(now);
    } else list.refresh(ids, now);
    if (of) {
        service.update(services, filter.node, now);
        graph.render(nodes, order, filter, now, services);
    } else if (told) graph.refresh([...ids].map((id) => known.rows.get(id)).filter(Boolean), now);
    if (ids.has(detail.id) && known.rows.has(detail.id)) detail.update(known.rows.get(detail.id), now);
}

/** What changes by itself: ages, and a status that nothing confirms any more. */
function tick() {
    const now = Date.now();
    if (now < ticked - 1500) setBack(ticked - now);
    ticked = now;
    const rows = [...known.rows.values()];
    const other = rows.filter((row) => statusOf(row, now) !== row.status || isStale(row, now) !== row.was);
    const moved = ["rtt", "loss", "traffic"].includes(sort.by) && now - ordered > SETTLED && events.on;
    if (other.length || moved) {
        for (const row of other) known.again(row, now);
        arrange(); // and come back here
        return;
    }
    list.tick(now);
    service.tick(now);
    head(now);
    if (detail.id !== null && known.rows.has(detail.id)) detail.update(known.rows.get(detail.id), now);
}

/** The clock was put back by so many milliseconds. Ages are not less for that. */
function setBack(by) {
    known.setBack(by);
    services.setBack(by);
    tunnels.forget();
    [ordered, everything] = [ordered - by, everything - by];
}

/** How many tunnels there are of each status, and how old all of it is. */
function head(now) {
    const { rows, received } = known;
    const found = counts([...rows.values()], now);
    for (const chip of $("chips").children) {
        setText(chip.lastElementChild, number(found[chip.dataset.status]));
        setAttribute(chip, "aria-pressed", String(filter.status === chip.dataset.status));
        chip.hidden = !found[chip.dataset.status] && chip.dataset.status !== "" && filter.status !== chip.dataset.status;
    }
    const age = ago(Math.max(0, (now - received) / 1000));
    setText($("updated"), received ? (events.on ? t("page.live", { ago: age }) : t("page.updated", { ago: age })) : "");
    $("updated").classList.toggle("old", Boolean(trouble) && received > 0);
    setText($("banner"), trouble ? `${trouble}\n${received ? t("error.old") : ""}` : "");
}

function filterBy(change) {
    filter = { ...filter, ...change };
    $("filter-type").value = filter.type;
    $("filter-node").value = filter.node;
    list.restart();
    render();
    if ("node" in change) graph.render(nodes, order, filter, Date.now(), services);
}

function sortBy(by) {
    const down = ["rtt", "loss", "traffic"].includes(by); // the worst, or the most, first
    sort = { by, down: sort.by === by ? !sort.down : down };
    $("sort").value = by;
    arrange();
}

function fillFilters() {
    const options = [["", t("list.all_nodes")], ...nodes.map((node) => [String(node.id), node.name])];
    const told = JSON.stringify(options);
    if ($("filter-node").dataset.known === told) return;
    $("filter-node").dataset.known = told;
    $("filter-node").replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    if (!nodes.some((node) => String(node.id) === filter.node)) filter.node = "";
    $("filter-node").value = filter.node;
}

/** All words that the HTML doesn't hold, in the language that was loaded. */
function label() {
    const option = ([value, text]) => el("option", { value }, text);
    $("filter-type").replaceChildren(...[["", t("list.all_types")], ...Object.entries(TYPES)].map(option));
    $("sort").replaceChildren(...Object.keys(COLUMNS).map((by) => option([by, t("list.sort_by", { column: t(COLUMNS[by]) })])));
    $("filter-type").value = filter.type;
    $("sort").value = sort.by;
    const chips = [["", "status.all"], ...STATUSES.map((status) => [status, STATUS_WORDS[status]]), ["stale", "status.stale"]];
    $("chips").replaceChildren(...chips.map(([status, key]) => {
        const click = () => filterBy({ status: filter.status === status ? "" : status });
        return el("button", { class: "chip", "data-status": status, on: { click } }, el("span", {}, t(key)), " ", el("b"));
    }));
    list.label();
    arrange();
}

function logOut() {
    api.dropToken();
    poll.stop();
    events.stop();
    [tunnels, services] = [new api.Tunnels(), new Services()]; // what one admin has read is not shown to the next
    [nodes, known, trouble] = [[], new Known(), null];
    $("notice").replaceChildren();
    arrange();
    poll.start();
    events.start();
}

async function speak(language) {
    try {
        await load(language);
    } catch (error) {
        // Away for the moment; or there, and upgraded: then the files of this page do not exist any more
        if (error instanceof TypeError) $("language").value = document.documentElement.lang;
        else location.reload();
        return;
    }
    choose(language);
    label();
}

async function begin() {
    api.onUnauthorized(askLogin);
    $("language").append(...Object.entries(LANGUAGES).map(([tag, name]) => el("option", { value: tag, lang: tag }, name)));
    const language = preferred();
    await load(language);
    $("language").value = language;
    $("language").addEventListener("change", () => speak($("language").value));
    $("dashboard").hidden = document.documentElement.dataset.dashboard !== "yes";
    $("logout").hidden = false;
    $("graph-fold").open = WIDE.matches;
    const fold = () => ($("filters").open = !NARROW.matches);
    NARROW.addEventListener("change", fold);
    fold();
    label();
    $("search").addEventListener("input", () => filterBy({ search: $("search").value }));
    $("filter-type").addEventListener("change", () => filterBy({ type: $("filter-type").value }));
    $("filter-node").addEventListener("change", () => filterBy({ node: $("filter-node").value, pair: "" }));
    $("sort").addEventListener("change", () => sortBy($("sort").value));
    $("clear").addEventListener("click", () => {
        $("search").value = "";
        filterBy(noFilter());
        $("search").focus();
    });
    $("create").addEventListener("click", () => form.open(null, nodes));
    $("logout").addEventListener("click", logOut);
    addEventListener("keydown", (event) => {
        const typing = event.target.closest("input, textarea, select");
        if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
        event.preventDefault();
        $("search").select();
    });
    addEventListener("storage", () => api.token() || poll.now()); // somebody has logged out in another tab
    setInterval(() => document.hidden || tick(), 1000);
    document.addEventListener("visibilitychange", () => document.hidden || tick()); // what was drawn may be hours old
    poll.start();
    events.start();
}

begin();
