"""What a measurement was made under, on trees of files as boards have them; values worked by hand."""

from pathlib import Path

import pytest

from deploy.measure import conditions
from deploy.measure.conditions import Conditions, PowerMeter, cool_down, doubts, read

ORIN = {
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1190400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "49500",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "47031",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone2/temp": "-256000",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input": "5000",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input": "970",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_max_alarm": "0",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_crit_alarm": "1",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in2_input": "4992",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input": "250",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in7_label": "NC",
    "proc/loadavg": "1.25 0.80 0.31 2/512 4711",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def says(**outputs):
    return lambda arguments: outputs.get(arguments[0], "")


def test_a_jetson_is_read(tmp_path):
    found = read(tree(tmp_path, ORIN), says(nvpmodel="NV Power Mode: MODE_15W\n2\n"))
    assert found.power_mode == "15W"
    assert found.governors == {"policy0": "schedutil", "policy4": "schedutil"}
    assert found.clocks_mhz == {"policy0": 1190.4, "policy4": 729.6}
    assert found.temperatures_c == {"cpu-thermal": 49.5, "gpu-thermal": 47.031}, "a zone that is off tells nothing"
    assert found.hottest_c == 49.5
    assert found.throttle == {"VDD_IN max alarm": 0, "VDD_IN crit alarm": 1}
    assert found.load_average == 1.25
    assert found.power_mw["VDD_IN"] == 5000 * 970 / 1000 == 4850
    assert Conditions.from_json(found.as_json()) == found


def test_a_machine_that_tells_nothing_is_read_as_nothing(tmp_path):
    assert read(tmp_path, says()) == Conditions()
    assert doubts(Conditions(), Conditions()) == ()


def test_the_whole_module_is_one_rail_or_the_sum():
    assert conditions.total_mw({"VDD_IN": 4850.0, "VDD_CPU_GPU_CV": 1248.0}) == 4850.0
    assert conditions.total_mw({"VDD_GPU_SOC": 3000.0, "VDD_CPU_CV": 1000.0}) == 4000.0
    assert conditions.total_mw({}) is None


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NVPM VERB: Config file: /etc/nvpmodel.conf\nNV Power Mode: MODE_30W_ALL\n3\n", "30W_ALL"),
        ("", None),
    ],
)
def test_the_power_mode_is_its_name(said, mode):
    assert conditions.parse_power_mode(said) == mode


def test_a_raspberry_pi_says_now_and_since_the_start():
    bits = conditions.parse_throttled("throttled=0x50005\n")
    assert {name for name, bit in bits.items() if bit} == {
        "under-voltage now",
        "throttled now",
        "under-voltage since the start",
        "throttled since the start",
    }
    assert not any(conditions.parse_throttled("throttled=0x0").values())
    assert conditions.parse_throttled("VCHI initialization failed") == {}


def pi(bits):
    return Conditions(throttle=conditions.parse_throttled(f"throttled={bits}"))


def test_what_was_throttled_before_the_measurement_is_no_doubt_about_it():
    assert doubts(pi("0x50000"), pi("0x50000")) == ()


def test_a_throttled_run_is_not_clean():
    assert doubts(pi("0x0"), pi("0x40000")) == ("throttled since the start (0 before, 1 after)",)
    assert "throttled now (1 before, 1 after)" in doubts(pi("0x40004"), pi("0x40004"))
    alarm = Conditions(throttle={"VDD_IN crit alarm": 1})
    assert doubts(Conditions(throttle={"VDD_IN crit alarm": 0}), alarm) == ("VDD_IN crit alarm (0 before, 1 after)",)


def test_an_x86_counter_counts_when_it_moves(tmp_path):
    counter = "sys/devices/system/cpu/cpu{}/thermal_throttle/package_throttle_count"
    before = read(tree(tmp_path, {counter.format(0): "7", counter.format(1): "9"}), says())
    assert before.throttle == {"package throttle count": 9} and doubts(before, before) == ()
    after = read(tree(tmp_path, {counter.format(1): "11"}), says())
    assert doubts(before, after) == ("package throttle count (9 before, 11 after)",)


def test_drift_counts_with_a_fallen_clock_only():
    before, after = Conditions(clocks_mhz={"policy0": 2400.0}), Conditions(clocks_mhz={"policy0": 1500.0})
    assert doubts(before, before, drift=0.2) == ()
    assert doubts(before, after, drift=0.01) == ()
    assert doubts(before, after, drift=0.2) == ("it ended 20 % slower than it began, and the clock of policy0 fell",)


def test_a_mode_or_a_governor_that_changed_is_told():
    before = Conditions(power_mode="15W", governors={"policy0": "performance"})
    after = Conditions(power_mode="MAXN", governors={"policy0": "powersave"})
    assert doubts(before, after) == (
        "the power mode changed from 15W to MAXN",
        "the governor of policy0 changed from performance to powersave",
    )


def cooling(temperatures):
    slept = []
    left = iter(temperatures)
    waited = cool_down(55.0, 10.0, look=lambda: next(left), sleep=slept.append)
    assert waited == sum(slept)
    return waited


def test_cooling_waits_until_cool_and_no_longer_than_it_may():
    assert cooling([69.0]) == 0, "warm is not hot"
    assert cooling([80.0, 75.0, 69.9]) == 2
    assert cooling([80.0] * 20) == 10
    assert cool_down(78.0, 10.0, look=lambda: 80.0, sleep=lambda s: None) == 0, "it was as hot when it began"
    assert cool_down(None, 10.0, look=lambda: 99.0, sleep=lambda s: None) == 0


def test_a_meter_means_what_the_rails_say(tmp_path):
    with PowerMeter(tree(tmp_path, ORIN)) as meter:
        while len(meter.samples_mw) < 3:
            pass
    assert meter.mean_mw == 4850
    with PowerMeter(tmp_path / "nothing") as meter:
        pass
    assert meter.mean_mw is None
