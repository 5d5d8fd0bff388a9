"""Weights by URL: downloaded once into torch.hub's folder and checked; local files stay; one clear line offline."""

import functools
import hashlib
import http.server
import json
import socket
import threading

import pytest
import torch

from common import download
from common.errors import UserError
from models.checkpoints.container import read
from models.checkpoints.download import cache_path, fetch
from models.checkpoints.hub import hub_id
from models.checkpoints.known import locate
from models.checkpoints.safetensors import write_safetensors


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(download, "WAIT", 0.0)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """A local web server with one file of weights; it counts requests."""
    torch.save({"w": torch.ones(3)}, tmp_path / "served.pth")
    content = (tmp_path / "served.pth").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list = []
        sha256 = hashlib.sha256(content).hexdigest()

        def do_GET(self):
            self.asked.append(self.path)
            if "missing" in self.path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    Handler.url = f"http://127.0.0.1:{httpd.server_port}"
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def test_fetched_once_and_checked(server, hub):
    url = f"{server.url}/models/resnet-{server.sha256[:8]}.pth?download=1"
    for _ in range(2):
        path = fetch(url, server.sha256[:8].upper())
        assert path == hub / f"resnet-{server.sha256[:8]}.pth" and read(path).state["w"].tolist() == [1] * 3
    assert len(server.asked) == 1 and [p.name for p in hub.iterdir()] == [path.name]
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged or another file: its sha256 begins .*; delete it to"):
        fetch(url, server.sha256[:8])
    assert fetch(url) == path  # nothing to check it by


def test_a_download_with_another_hash_is_not_kept(server, hub):
    with pytest.raises(UserError, match="not 00000000"):
        fetch(f"{server.url}/a.pth", "00000000")
    assert list(hub.iterdir()) == []


def test_hub_files_of_one_name_do_not_meet(hub):
    url = "https://huggingface.co/nvidia/mit-b0/resolve/main/pytorch_model.bin"
    assert cache_path(url) == hub / "nvidia--mit-b0" / "pytorch_model.bin"
    assert cache_path(url.replace("main", "v2/small")) == hub / "nvidia--mit-b0--v2--small" / "pytorch_model.bin"
    ours = [cache_path(f"http://{host}/{d}/model.safetensors") for host in ("a.org", "b.org:80") for d in "xy"]
    assert len(set(ours)) == 4 and ours[3] == hub / "b.org-80--y" / "model.safetensors"
    assert cache_path("https://example.org/a/..%2Fb%2Fc.pth") == hub / "c.pth"
    for bad in ("https://example.org", "https://example.org/..", "https://example.org/a/%2e%2e"):
        with pytest.raises(UserError, match="names no file"):
            cache_path(bad)


def test_local_files_stay_where_they_are(tmp_path, hub):
    path = tmp_path / "my weights.pth"
    path.write_bytes(b"x")
    for given in (path, str(path), path.as_uri()):
        assert fetch(given, hashlib.sha256(b"x").hexdigest()[:10]) == path
        with pytest.raises(UserError, match="damaged or another file"):
            fetch(given, "00")
    assert not hub.exists() and fetch(tmp_path) == tmp_path  # a hub folder is `read`'s
    for missing in (tmp_path / "none.pth", (tmp_path / "none.pth").as_uri()):
        with pytest.raises(UserError, match="none.pth: not found"):
            fetch(missing)


def test_offline_says_what_to_fetch_and_where_to_put_it(server, hub):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.pth"  # nobody listens there
        with pytest.raises(UserError) as error:
            fetch(url)
    line = str(error.value)
    assert line.startswith(f"cannot download {url}: ") and line.endswith(f"put it at {hub / 'a.pth'}")
    assert "\n" not in line and "run the command again" not in line
    with pytest.raises(UserError, match="404 Not Found; if this machine is offline"):
        fetch(f"{server.url}/missing.pth")


# --- the Hugging Face hub -------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """A folder laid out like the hub, with models of several kinds."""
    root = tmp_path / "site"

    def model(name, **files):
        folder = root / name / "resolve" / "main"
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    labels = {"id2label": {"0": "sky", "1": "sea"}}
    write_safetensors(model("me/whole", config=labels) / "model.safetensors", {"w": torch.ones(2)}, {})
    torch.save({"w": torch.ones(3)}, model("me/old.v1", config={}, preprocessor_config={}) / "pytorch_model.bin")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    folder = model("me/shards")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for key, name in index["weight_map"].items():
        write_safetensors(folder / name, {key: torch.ones(1)}, {})
    model("me/empty", config={})
    return root


@pytest.fixture(params=["http", "file"])
def endpoint(request, site, monkeypatch):
    """HF_ENDPOINT on that folder, by a server or as files; the list of what was asked for."""
    asked: list[str] = []
    if request.param == "file":
        monkeypatch.setenv("HF_ENDPOINT", site.as_uri() + "/")
        yield asked
        return

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    yield asked
    httpd.shutdown()
    httpd.server_close()


def test_a_model_of_the_hub_comes_with_its_words(hub, endpoint):
    for _ in range(2):
        found = read(locate("me/whole"))
        assert found.meta["config.json"]["id2label"] == {"0": "sky", "1": "sea"}
    assert sum("model.safetensors" in path for path in endpoint) <= 1  # once; as files, never
    assert len([path for path in endpoint if "preprocessor" in path]) <= 1
    old = read(locate("me/old.v1"))
    assert old.state["w"].shape == (3,) and old.meta == {"config.json": {}, "preprocessor_config.json": {}}
    assert set(read(locate("me/shards")).state) == {"a", "b"}
    for missing in ("me/empty", "me/none"):
        with pytest.raises(UserError, match=f"'{missing}'.*tried on the Hugging Face hub: the hub has no model"):
            locate(missing)


def test_what_is_a_model_of_the_hub(tmp_path, monkeypatch, hub):
    assert hub_id("https://huggingface.co/me/whole/tree/main") == hub_id("me/whole") == "me/whole"
    assert hub_id("https://example.org/me/whole") is None and hub_id("a/b/c") is None and hub_id("whole") is None
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "file:///nowhere")
    for path in ("runs/none", "me/best.pth", "./me/whole"):  # paths: nobody is asked
        with pytest.raises(UserError, match="not found$"):
            locate(path)


def test_words_that_cannot_be_fetched_are_missed_with_a_warning(hub, capsys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/me/whole/resolve/main/model.safetensors"
        write_safetensors(cache_path(url), {"w": torch.ones(2)}, {})
        assert read(locate(url)).state["w"].shape == (2,)
        assert "without config.json, which may name its classes" in capsys.readouterr().err
        monkeypatch.setenv("HF_ENDPOINT", url.partition("/me")[0])
        with pytest.raises(UserError, match="offline, fetch it elsewhere and put it at .*with its config.json"):
            locate("me/other")
