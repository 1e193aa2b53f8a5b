// SPDX-License-Identifier: AGPL-3.0-or-later
// The page: what is known, what is shown of it, and who is told when it changes.

import { $, el, setAttribute, setText } from "./dom.js";
import * as api from "./api.js";
import * as changes from "./changes.js";
import { Detail } from "./detail.js";
import { Form } from "./form.js";
import { Graph } from "./graph.js";
import { ago, choose, collator, LANGUAGES, load, number, preferred, t } from "./i18n.js";
import { COLUMNS, List, STATUS_WORDS } from "./list.js";
import { askLogin } from "./login.js";
import { counts, isFiltered, matcher, noFilter, rowOf, sorted, STATUSES, statusOf, TYPES } from "./model.js";
import { Nodes } from "./nodes.js";
import { Poll } from "./poll.js";
import { explain } from "./problems.js";
import { Services } from "./services.js";

const APPLY = "ansible-playbook marzban.tunnels.apply";
const WIDE = matchMedia("(min-width: 70rem)");
const NARROW = matchMedia("(max-width: 48rem)");

let tunnels = new api.Tunnels();
let services = new Services();
let nodes = [];
let rows = new Map(); // by id
let order = []; // the rows as they are sorted
let received = 0; // when what we know came
let trouble = null; // why it isn't newer
let filter = noFilter();
let sort = { by: "name", down: false };

const list = new List(open, sortBy);
const graph = new Graph((change) => filterBy(Object.entries(change).every(([key, value]) => filter[key] === value) ? { node: "", pair: "" } : change));
const form = new Form((record, created) => keep(record, created ? "notice.created" : "notice.saved"));
const detail = new Detail({
    edit: (row) => form.open(row.record, nodes),
    toggle: (row) => attempt(async () => keep(await changes.toggle(row), row.record.is_active ? "notice.deactivated" : "notice.activated")),
    remove: async (row) => {
        if (!(await changes.remove(row, services.actsOn(row.ids)))) return;
        rows.delete(row.id);
        detail.close();
        changed("notice.deleted", row.label, row.ids);
    },
});
const service = new Nodes((node) => {
    services.keep(node);
    service.update(services, filter.node, Date.now());
    poll.hurry();
});
const poll = new Poll(
    async () => {
        const found = await Promise.all([api.call("GET", "nodes"), tunnels.read(), services.read()]);
        return { found, moment: Date.now() };
    },
    ({ found, moment }) => {
        [nodes, received, trouble] = [found[0], moment, null];
        const before = rows;
        rows = new Map(found[1].map(([record, at, confirmed]) => {
            const row = before.get(record.id);
            return [record.id, row?.record === record ? Object.assign(row, { confirmed }) : rowOf(record, at, confirmed)];
        }));
        arrange();
    },
    (problem) => {
        trouble = explain(problem);
        tick();
    },
);

/** A record that the panel has just given. */
function keep(record, notice) {
    rows.set(record.id, rowOf(record, Date.now()));
    changed(notice, record.name ?? `#${record.id}`, [record.source_node_id, record.target_node_id]);
    $(`tunnel-${record.id}`)?.focus({ preventScroll: false });
}

function changed(notice, name, ids) {
    const acts = services.actsOn(ids);
    const how = acts ? [t("notice.acts")] : [t("notice.run"), " ", el("code", { dir: "ltr" }, APPLY)];
    const close = el("button", { class: "quiet close", "aria-label": t("page.close"), on: { click: () => $("notice").replaceChildren() } }, "×");
    $("notice").replaceChildren(el("p", {}, t(notice, { name }), " ", ...how), close);
    arrange();
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
        poll.now(true);
    }
}

function open(id) {
    if (rows.has(id)) detail.open(rows.get(id), Date.now());
}

/** Other rows, or another order. */
function arrange() {
    order = sorted([...rows.values()], sort, collator());
    fillFilters();
    render();
    graph.render(nodes, order, filter, Date.now(), services);
    const shown = rows.get(detail.id);
    if (shown) detail.update(shown, Date.now());
    else if (detail.id !== null) detail.close(); // somebody has deleted it
}

/** Other choices of what is shown. Runs at each key that is typed into the search. */
function render() {
    const now = Date.now();
    const shown = order.filter(matcher(filter, now));
    service.update(services, filter.node, now);
    list.render(shown, sort, now, (id) => rows.has(id));
    setText($("count"), rows.size ? t("list.count", { shown: number(shown.length), all: number(rows.size) }) : "");
    setText($("empty"), received === 0 ? t("list.loading") : rows.size ? t("list.nothing") : t("list.empty"));
    $("empty").hidden = shown.length > 0;
    $("clear").hidden = !isFiltered(filter);
    const folded = [filter.type, filter.node].filter(Boolean).length;
    setText($("filters-set"), folded ? number(folded) : "");
    tick();
}

/** What changes by itself: ages, and a status that nothing confirms any more. */
function tick() {
    const now = Date.now();
    const other = [...rows.values()].filter((row) => statusOf(row, now) !== row.status);
    if (other.length) {
        for (const row of other) rows.set(row.id, rowOf(row.record, row.received, row.confirmed, now));
        arrange(); // and come back here
        return;
    }
    list.tick(now);
    service.tick(now);
    const found = counts([...rows.values()], now);
    for (const chip of $("chips").children) {
        setText(chip.lastElementChild, number(found[chip.dataset.status]));
        setAttribute(chip, "aria-pressed", String(filter.status === chip.dataset.status));
        chip.hidden = !found[chip.dataset.status] && chip.dataset.status !== "" && filter.status !== chip.dataset.status;
    }
    const age = (now - received) / 1000;
    setText($("updated"), received ? t("page.updated", { ago: ago(Math.max(0, age)) }) : "");
    $("updated").classList.toggle("old", Boolean(trouble) && received > 0);
    setText($("banner"), trouble ? `${trouble}\n${received ? t("error.old") : ""}` : "");
    if (detail.id !== null && rows.has(detail.id)) detail.update(rows.get(detail.id), now);
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
    const known = JSON.stringify(options);
    if ($("filter-node").dataset.known === known) return;
    $("filter-node").dataset.known = known;
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
    [tunnels, services] = [new api.Tunnels(), new Services()]; // what one admin has read is not shown to the next
    [nodes, rows, received, trouble] = [[], new Map(), 0, null];
    $("notice").replaceChildren();
    arrange();
    poll.start();
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
    setInterval(() => document.hidden || tick(), 1000);
    poll.start();
}

begin();
