import os
import signal
import socket
import subprocess
import sys

import pytest

from causeway.cluster.ray_local import RayConfig, RayStartError, StopSignal, start_ray

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.ray
@pytest.mark.parametrize("order", ["ours-first", pytest.param("ray-first", marks=pytest.mark.slow)])
def test_a_local_ray_listens_on_the_loopback_interface_alone(order):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    output = subprocess.run(
        [sys.executable, "-m", "tests.cluster.listeners", order],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    addresses = set(output.split())
    assert addresses
    assert addresses <= LOOPBACK


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_start_in_one_process_is_refused(local_ray):
    with pytest.raises(RayStartError, match=r"call ray\.shutdown\(\) first"):
        start_ray(RayConfig())


def test_a_cluster_that_is_not_there_is_named_with_what_to_check():
    with socket.socket() as listener:  # bound, not listening: the port refuses
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RayStartError, match=r"could not be joined at .* check the address"):
            start_ray(RayConfig(address=address))


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "http://head:8265", "a:b"])
def test_an_address_of_another_kind_is_refused_with_the_way_to_do_it(address):
    with pytest.raises(ValueError, match="submit the run as a job"):
        RayConfig(address=address)


@pytest.mark.parametrize(
    ("field", "value"), [("address", ""), ("num_cpus", 0), ("object_store_bytes", 1)]
)
def test_a_bad_setting_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"RayConfig\.{field}"):
        RayConfig(**{field: value})


def test_a_signal_to_stop_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal(signal.SIGTERM) as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(1.0)
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_asking_twice_to_stop_interrupts_at_once():
    with StopSignal(signal.SIGTERM) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
