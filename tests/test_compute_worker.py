"""The worker process of a dashboard."""

import multiprocessing
import time

import psutil

from workbench.workspace.compute_worker import end_with_server

fork = multiprocessing.get_context("fork")


def compute_without_progress() -> None:
    end_with_server()
    while True:
        sum(range(1000))


def serve(pipe) -> None:
    worker = fork.Process(target=compute_without_progress)
    worker.start()
    pipe.send(worker.pid)
    time.sleep(60)


def test_worker_ends_with_a_killed_server_amid_a_computation():
    receiver, sender = fork.Pipe(duplex=False)
    server = fork.Process(target=serve, args=(sender,))
    server.start()
    worker = psutil.Process(receiver.recv())
    server.kill()
    server.join()
    worker.wait(timeout=30)  # raises an exception if it goes on
