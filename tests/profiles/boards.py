"""What real boards' files hold, as their owners have published them, cut short where lines repeat."""

from __future__ import annotations

from pathlib import Path

ORIN_CPUINFO = "".join(
    f"""processor	: {number}
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp flagm
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1

"""
    for number in range(6)
)

RK3588_CPUINFO = (
    "".join(
        f"""processor	: {number}
BogoMIPS	: 48.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp{extra}
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: {variant}
CPU part	: {part}
CPU revision	: 0

"""
        for number, (part, variant, extra) in enumerate([("0xd05", "0x2", "")] * 4 + [("0xd0b", "0x4", " ssbs")] * 4)
    )
    + "Serial\t\t: 0123456789abcdef\n"
)

PI4_CPUINFO = (
    "".join(
        f"""processor	: {number}
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

"""
        for number in range(4)
    )
    + "Hardware\t: BCM2835\nRevision\t: c03114\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)

X86_CPUINFO = "".join(
    f"""processor	: {number}
vendor_id	: AuthenticAMD
model name	: AMD EPYC 7763 64-Core Processor
cpu MHz		: {mhz}
flags		: fpu vme sse2 fma avx avx2 {extra}

"""
    for number, (mhz, extra) in enumerate([("2445.406", "erms"), ("3243.018", "")])
)

ORIN_RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)

NVPMODEL_CONF = """# FORMAT:
# < POWER_MODEL ID=id_num NAME=mode_name >
# PARAM1_NAME ARG11_NAME ARG11_VAL
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ -1

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000

< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 918000000

# mandatory section to configure the default power mode
< PM_CONFIG DEFAULT=1 >
"""

NVPMODEL_QUERY = """NVPM VERB: Config file: /etc/nvpmodel.conf
NVPM VERB: parsing done for /etc/nvpmodel.conf
NVPM VERB: Current mode: NV Power Mode: MAXN_SUPER
2
"""


def orin_nano(root: Path) -> Path:
    """The files of a Jetson Orin Nano below ``root``."""
    files = {
        "proc/cpuinfo": ORIN_CPUINFO,
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": ORIN_RELEASE,
        "etc/nvpmodel.conf": NVPMODEL_CONF,
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\n',
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        **{f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": "1728000\n" for n in range(6)},
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
