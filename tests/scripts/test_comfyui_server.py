"""The server of the demo: where it puts its copy of the pack, and how it is reached."""

import http.server
import json
import threading

import pytest


@pytest.fixture
def server(scripts):
    return scripts("comfyui_server")


def test_the_pack_is_copied_anew_every_time(server, tmp_path):
    for _ in range(2):
        copy = server.install_pack(tmp_path)
        assert (copy / "nodes" / "__init__.py").is_file() and not (copy / "gone.py").exists()
        (copy / "gone.py").touch()


def test_a_pack_that_is_there_is_never_removed(server, processes, tmp_path, monkeypatch):
    installed = tmp_path / "custom_nodes" / server.NAME
    installed.mkdir(parents=True)
    (installed / "work.py").write_text("not committed")
    with pytest.raises(processes.SetupError, match=r"holds a pack\. Choose another --out"):
        server.install_pack(tmp_path)
    (installed / server.MARK).touch()  # even where it looks like a copy
    monkeypatch.setattr(server, "ROOT", installed)
    with pytest.raises(processes.SetupError, match="Choose another --out"):
        server.install_pack(tmp_path)
    monkeypatch.setattr(server, "ROOT", installed / "deeper")
    with pytest.raises(processes.SetupError, match="Choose another --out"):
        server.install_pack(tmp_path)
    assert (installed / "work.py").read_text() == "not committed"


def test_it_is_not_reached_by_the_users_proxy(server, monkeypatch, tmp_path):
    class Reply(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(self.path).encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.delenv("no_proxy", raising=False)
    ours = server.Server(tmp_path, tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Reply) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        ours.url = f"http://127.0.0.1:{there.server_port}"
        assert ours.get("/system_stats") == "/system_stats"
        there.shutdown()
