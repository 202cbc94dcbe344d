"""What is asked of a device."""

from functools import partial

from mutants.mutant import Mutant

npu = partial(Mutant, file="dsv4_kernels/device/npu.py", tests="tests/test_device.py")
devices = partial(Mutant, file="dsv4_kernels/device/__init__.py", tests="tests/test_device.py")
main = partial(Mutant, file="dsv4_kernels/__main__.py", tests="tests/test_device.py")

MUTANTS = (
    npu(
        "torch_npu alone makes an NPU",
        "    return torch.npu.is_available()",
        "    return True or torch.npu.is_available()",
        killed_by="test_torch_npu_without_a_device_is_no_npu",
    ),
    npu(
        "a torch_npu that does not load is an error",
        "except (ImportError, OSError):",
        "except ImportError:",
        killed_by="test_torch_npu_without_its_libraries_is_no_npu[OSError]",
    ),
    npu(
        "the cores of another device",
        "get_device_properties(device.index or 0)",
        "get_device_properties(0)",
        killed_by="test_an_npu_is_asked_for_its_cores",
    ),
    npu(
        "vector cores are counted as cube cores",
        'cores["num_aicore"], cores["num_vectorcore"]',
        'cores["num_vectorcore"], cores["num_vectorcore"]',
        killed_by="test_an_npu_is_asked_for_its_cores",
    ),
    npu(
        "a wrong size of L1",
        "l1=512 * 1024",
        "l1=1024 * 1024",
        killed_by="tests/gates/test_ascend_gate.py::test_parts_have_the_cores_and_memories_that_the_compiler_knows",
    ),
    npu(
        "launches without a queue are not warned of",
        "    if queue.lower() not in",
        "    if queue.lower() in",
        killed_by="test_launches_without_a_queue_are_warned_of[0-True]",
    ),
    npu(
        "a queue is warned of",
        'in ("true", "1")',
        'in ("true",)',
        killed_by="test_launches_without_a_queue_are_warned_of[1-False]",
    ),
    npu(
        "the queue is not there unless asked for",
        '"TRITON_ENABLE_TASKQUEUE", "true"',
        '"TRITON_ENABLE_TASKQUEUE", "false"',
        killed_by="test_launches_without_a_queue_are_warned_of[None-False]",
    ),
    devices(
        "Triton's interpreter is let through",
        'os.environ.get("TRITON_INTERPRET", "0") == "1"',
        'os.environ.get("TRITON_INTERPRET", "0") == "2"',
        killed_by="test_an_interpreter_in_the_compilers_place_is_refused",
    ),
    main(
        "a command without Triton is a traceback",
        'if error.name == "triton":',
        'if error.name == "tritton":',
        killed_by="test_without_triton_a_command_is_one_sentence",
    ),
    devices(
        "a GPU is better than an NPU",
        '{"npu": npu, "cuda": cuda, "cpu": cpu}',
        '{"cuda": cuda, "npu": npu, "cpu": cpu}',
        killed_by="test_torch_npu_without_a_device_is_no_npu",
    ),
    devices(
        "the driver of before is not given back",
        "                require_triton().runtime.driver.set_active(self._before)\n"
        "                self._changed",
        "                self._changed",
        killed_by="test_on_gives_the_driver_back",
    ),
)
