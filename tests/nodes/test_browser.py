"""ComfyUI's editor in a real browser: templates, dropping a file, Run, searching for a node, and an error on its node.

Screenshots go to $GENPROP_SCREENSHOTS where that is set: look at them.
"""
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.append(str(HERE))
from comfy_checkouts import checkouts, python_of, server_module  # noqa: E402
from test_server import WORKFLOWS, prepare  # noqa: E402

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
PATIENCE = 180_000  # milliseconds
USERS_FILES = ["ImageOnlyCheckpointLoader", "GenPropLoadAdapters"]
SCREENSHOTS = os.environ.get("GENPROP_SCREENSHOTS")
STEPS = 6
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module", params=checkouts(), ids=lambda path: path.name)
def server(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    prepare(base)
    with server_module().Server(request.param, base, "--cpu", python=python_of(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium found")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def editor(server, browser):
    """A page with the editor, empty."""
    page = browser.new_page(viewport={"width": 1680, "height": 945})
    page.set_default_timeout(PATIENCE)
    open_editor(page, server.url)
    yield page
    page.close()


def open_editor(page, url):
    page.goto(url)
    page.wait_for_function("() => !!(window.app?.extensionManager && window.app.graph"
                           " && window.LiteGraph?.registered_node_types?.GenPropSampler)")  # fmt: skip
    page.wait_for_timeout(2000)  # the start-up workflow replaces the graph once more
    page.evaluate("""() => {
        window.seen = [];
        for (const kind of ["progress", "progress_state", "execution_success", "execution_error"])
            app.api.addEventListener(kind, (event) => window.seen.push([kind, event.detail]));
    }""")


def command(page, name):
    page.evaluate("(name) => app.extensionManager.command.execute(name)", name)


def fit(page):
    page.keyboard.press("Escape")
    command(page, "Comfy.Canvas.FitView")
    page.wait_for_timeout(1000)


def picture(page, name):
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def wide(page):
    """Room for a whole workflow at a scale at which its texts are drawn, without the map of the graph over it."""
    page.set_viewport_size({"width": 2480, "height": 1100})
    page.evaluate("() => app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    fit(page)


def wait_for_graph(page, workflow):
    wanted = sorted(n["type"] for n in workflow["nodes"])
    page.wait_for_function("(wanted) => JSON.stringify(app.graph._nodes.map(n => n.type).sort()) === wanted",
                           arg=json.dumps(wanted, separators=(",", ":")))  # fmt: skip


def missing(page):
    """Types of nodes that this ComfyUI does not know, or that show an error; SVD's own files may well be absent."""
    return page.evaluate("""(files) => app.graph._nodes.filter(n => !LiteGraph.registered_node_types[n.type]
        || (n.has_errors && !files.includes(n.type))).map(n => n.type)""", USERS_FILES)  # fmt: skip


def links(page):
    return page.evaluate("() => app.graph._nodes.flatMap(n => n.inputs || []).filter(i => i.link != null).length")


def read_workflow(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def open_template(page, name):
    command(page, "Comfy.BrowseTemplates")
    page.get_by_text(server_module().NAME, exact=True).click()
    page.get_by_test_id(f"template-workflow-{name}").click()
    wait_for_graph(page, read_workflow(name))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_template_opens_without_missing_nodes(editor, name):
    open_template(editor, name)
    assert not missing(editor) and links(editor) == len(read_workflow(name)["links"])
    fit(editor)
    picture(editor, f"template-{name}")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_dropped_file_opens_without_missing_nodes(editor, name):
    text = (ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")
    editor.evaluate("""([text, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([text], name + ".json", {type: "application/json"}));
        const target = document.querySelector("#graph-canvas") || document.querySelector("canvas");
        target.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    }""", [text, name])  # fmt: skip
    wait_for_graph(editor, read_workflow(name))
    assert not missing(editor) and links(editor) == len(read_workflow(name)["links"])


def test_a_workflow_saved_before_an_input_was_added_keeps_its_values(editor):
    """The editor stores widgets by position: what is new comes last, and has its default."""
    saved = next(n for n in read_workflow("two_keyframes")["nodes"] if n["type"] == "GenPropPropagate")
    open_template(editor, "two_keyframes")
    widgets, outputs = editor.evaluate("""() => {
        const node = app.graph._nodes.find(n => n.type === "GenPropPropagate");
        return [node.widgets.map(w => [w.name, w.value]), node.outputs.map(o => o.name)];
    }""")
    values, names = saved["widgets_values"], [o["name"] for o in saved["outputs"]]
    assert [value for _, value in widgets[: len(values)]] == values and widgets[len(values) - 1] == ["crop", "off"]
    assert widgets[len(values) :] == [["inner_keyframes", False], ["guide_later", False], ["clean_plate", True],
                                      ["look_ahead", True]]
    assert outputs[: len(names)] == names and outputs[-1] == "overlay"


def set_widget(page, node, name, value):
    page.evaluate("""([type, name, value]) => {
        const widget = app.graph._nodes.find(n => n.type === type).widgets.find(w => w.name === name);
        widget.value = value;
        widget.callback?.(value);
    }""", [node, name, value])  # fmt: skip


def widget_value(page, node, name):
    return page.evaluate("""([type, name]) =>
        app.graph._nodes.find(n => n.type === type).widgets.find(w => w.name === name).value""", [node, name])


def press_run(page):
    page.get_by_test_id("queue-button").click()


def events(page, kind):
    return page.evaluate("(kind) => window.seen.filter(e => e[0] === kind).map(e => e[1])", kind)


def test_run_shows_progress_and_the_result(editor):
    open_template(editor, "object_removal_mini")
    fit(editor)
    set_widget(editor, "GenPropSampler", "steps", STEPS)
    press_run(editor)
    editor.wait_for_function("window.seen.some(e => e[0].startsWith('execution_'))")
    assert not events(editor, "execution_error")
    steps = [e["value"] for e in events(editor, "progress") if e["max"] == STEPS]
    assert steps == sorted(steps) and steps[-1] == STEPS and len(steps) > 3
    editor.wait_for_function("[...document.querySelectorAll('video')].filter(v => v.videoWidth === 128).length === 2")
    wide(editor)
    picture(editor, "result")


def slot(page, type_, output, index):
    """Position on the page of a slot of the only node of a type."""
    return page.evaluate("""([type, output, index]) => {
        const node = app.graph._nodes.find(n => n.type === type);
        const [x, y] = node.getConnectionPos(!output, index);
        const {scale, offset} = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
        return [(x + offset[0]) * scale + box.left, (y + offset[1]) * scale + box.top];
    }""", [type_, output, index])  # fmt: skip


def add_by_search(page, text, x, y, shown=None):
    """Double-click on the canvas, type, Enter, click where it goes: as a user adds a node. shown: a picture's name."""
    before = page.evaluate("app.graph._nodes.length")
    page.mouse.dblclick(x, y)
    page.wait_for_timeout(1500)
    page.keyboard.type(text, delay=20)
    page.wait_for_timeout(2500)
    if shown:
        picture(page, shown)
    page.keyboard.press("Enter")
    page.wait_for_function("(n) => app.graph._nodes.length === n", arg=before + 1)
    page.wait_for_timeout(500)
    page.mouse.click(x, y)
    page.wait_for_timeout(500)


def test_nodes_are_found_by_search_and_connected_by_hand(editor):
    command(editor, "Comfy.NewBlankWorkflow")
    editor.wait_for_function("app.graph._nodes.length === 0")
    add_by_search(editor, "GenProp Load Mini", 500, 300)
    add_by_search(editor, "GenProp Encode Condition", 900, 300, "search")
    editor.evaluate("""() => {
        const [a, b] = ["GenPropLoadMini", "GenPropEncodeCondition"].map(t => app.graph._nodes.find(n => n.type === t));
        a.pos = [0, 0];
        b.pos = [500, 0];
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [400, 300];
        app.canvas.setDirty(true, true);
    }""")
    editor.wait_for_timeout(1000)
    start, end = slot(editor, "GenPropLoadMini", True, 3), slot(editor, "GenPropEncodeCondition", False, 0)
    editor.mouse.move(*start)
    editor.mouse.down()
    editor.mouse.move(*end, steps=12)
    editor.mouse.up()
    editor.wait_for_timeout(500)
    assert links(editor) == 1
    made = editor.evaluate("[...app.graph.links.values()].map(l => [l.origin_slot, l.target_slot, l.type])")
    assert made == [[3, 0, "GENPROP_ADAPTERS"]]
    picture(editor, "connected")


def test_a_typed_size_comes_to_one_that_is_taken(editor):
    open_template(editor, "object_removal_mini")
    for typed, taken in ((104, 96), (1024, 1024), (576, 576), (0, 0)):
        set_widget(editor, "GenPropEncodeCondition", "width", typed)
        assert widget_value(editor, "GenPropEncodeCondition", "width") == taken


def test_a_wrong_input_shows_its_line_on_the_node(editor):
    open_template(editor, "object_removal_mini")
    set_widget(editor, "GenPropEncodeCondition", "keyframe_index", 99)
    press_run(editor)
    editor.wait_for_function("window.seen.some(e => e[0] === 'execution_error')")
    error = events(editor, "execution_error")[0]
    line = "Expected a keyframe index from 0 to 7 for this source, got 99. Count frames from 0."
    assert error["node_type"] == "GenPropEncodeCondition" and error["exception_message"].strip() == line
    shown = editor.evaluate("app.graph._nodes.filter(n => n.has_errors || n.strokeStyles?.executionError?.call(n)"
                            "?.color).map(n => n.type)")  # fmt: skip
    assert "GenPropEncodeCondition" in shown
    line, details = editor.get_by_text(re.compile("from 0 to 7")), editor.get_by_test_id("error-overlay-see-errors")
    line.or_(details).first.wait_for()  # older editors show the message at once, newer ones behind a button
    if details.count():
        details.click()
    line.first.wait_for()
    picture(editor, "error")
