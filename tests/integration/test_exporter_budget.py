# SPDX-License-Identifier: Apache-2.0
"""The exporter as a process before an API server that has 20 000 pods and never rests: memory and answers stay small.

The API server is a stand-in that speaks the two requests which the exporter makes, list by pages and watch, over HTTP
with objects of real size.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kubenclave.serving import Server, listen
from tests.chart import NAMESPACE

PODS, PAGE, NODES = 20_000, 500, 1_000
RATE = 100  # changes of pods a second
MEMORY_MB = 128
MIB = 1 << 20


def pod(number):
    """A pod as large as they are: what is filled up here, real ones have in managedFields and status."""
    limits = {"sgx.intel.com/epc": "8Mi", "sgx.intel.com/enclave": "1"}
    resources = {"limits": limits, "requests": limits}
    return {
        "metadata": {"name": f"p-{number}", "namespace": f"n-{number % 50}", "resourceVersion": str(number + 1)},
        "spec": {
            "nodeName": f"node-{number % NODES}",
            "containers": [{"name": "main", "image": "r.example/x", "resources": resources}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": f"c{each}", "message": f"{number}" * 20} for each in range(40)],
        },
    }


def node(number):
    amounts = {"sgx.intel.com/epc": "256Mi", "sgx.intel.com/enclave": "110"}
    conditions = [{"type": "SGXReady", "status": "True"}]
    status = {"capacity": amounts, "allocatable": amounts, "conditions": conditions}
    return {"metadata": {"name": f"node-{number}", "resourceVersion": "1"}, "status": status}


async def objects(request: Request) -> Response:
    make, count = (pod, PODS) if request.url.path.endswith("pods") else (node, NODES)
    if "watch" in request.query_params:
        return StreamingResponse(changes(make))
    first = int(request.query_params.get("continue", "0"))
    last = min(first + int(request.query_params["limit"]), count)
    more = {"continue": str(last)} if last < count else {}
    listed = {"metadata": {"resourceVersion": "1", **more}, "items": [make(number) for number in range(first, last)]}
    return JSONResponse(listed)


async def changes(make):
    number = 0
    while make is pod:
        yield json.dumps({"type": "MODIFIED", "object": pod(number % PODS)}).encode() + b"\n"
        number += 1
        await asyncio.sleep(1 / RATE)
    await asyncio.sleep(3600)
    yield b""


async def accept(request: Request) -> Response:
    return JSONResponse(await request.json())


def kubeconfig(folder: Path, port: int) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(document))
    return file


def memory(process: asyncio.subprocess.Process, what: str) -> float:
    """MB, resident now or at most so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1024


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


async def measure(folder: Path) -> tuple[float, float, float, str]:
    """Start both; return MB at the peak, processors' share at rest, seconds of a scrape, and the scrape."""
    app = Starlette(
        routes=[
            Route("/api/v1/pods", objects),
            Route("/api/v1/nodes", objects),
            Route("/api/v1/namespaces/{namespace}/configmaps/{name}", accept, methods=["PATCH"]),
        ]
    )
    with listen(0) as sock, listen(0) as free:
        port = free.getsockname()[1]
        free.close()
        server = Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([sock]))
        command = [sys.executable, "-m", "kubenclave", "cluster", "exporter", "--port", str(port)]
        command += ["--namespace", NAMESPACE, "--kubeconfig", str(kubeconfig(folder, sock.getsockname()[1]))]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "NO_PROXY": "*"})
        try:
            while (await asyncio.to_thread(fetch, port, "/readyz"))[0] != 200:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
            await asyncio.sleep(1)
            before, begun = times(process), time.monotonic()
            await asyncio.sleep(3)
            share = (times(process) - before) / (time.monotonic() - begun)
            begun = time.monotonic()
            _, text = await asyncio.to_thread(fetch, port, "/metrics")
            return memory(process, "VmHWM"), share, time.monotonic() - begun, text
        finally:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            server.force_exit = server.should_exit = True
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def times(process: asyncio.subprocess.Process) -> float:
    """Seconds of processor time so far."""
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_twenty_thousand_pods_fit_into_the_budget(tmp_path):
    peak, share, seconds, text = asyncio.run(measure(tmp_path))
    figures = f"peak {peak:.0f} MB, {share:.0%} of a processor at {RATE} changes/s, scrape {seconds:.2f} s"
    assert text.count("kubenclave_pod_epc_requested_bytes{") == PODS
    assert text.count("kubenclave_node_epc_free_bytes{") == NODES
    assert f'kubenclave_node_epc_requested_bytes{{node="node-7"}} {20 * 8 * MIB}' in text
    assert 'kubenclave_epc_pods{state="scheduled"} 20000' in text
    assert peak < MEMORY_MB, figures
    assert seconds < 5, figures
