"""The counting plugin of bench/arm against programs of known instructions, class by class, under emulation."""

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "arm"
sys.path.insert(0, str(BENCH))
emulation = pytest.importorskip("emulation", reason="bench/arm is in source checkouts only")

# x0 points to 512 bytes of writable, 16-byte aligned memory.
INSTRUCTIONS = {
    "fma_fp32": """
        fmla v0.4s, v1.4s, v2.4s
        fmls v0.4s, v1.4s, v2.4s
        fmla v0.2s, v1.2s, v2.2s
        fmla v31.4s, v30.4s, v29.s[3]
        fmls v0.4s, v1.4s, v2.s[0]
        fmla v0.2s, v1.2s, v2.s[1]""",
    "fma_fp64": """
        fmla v0.2d, v1.2d, v2.2d
        fmls v0.2d, v1.2d, v2.2d
        fmla v0.2d, v1.2d, v31.d[1]""",
    "fma_fp16": """
        fmla v0.8h, v1.8h, v2.8h
        fmls v0.4h, v1.4h, v2.4h
        fmla v31.8h, v30.8h, v15.h[7]
        fmls v0.8h, v1.8h, v2.h[0]""",
    "fma_widening": """
        fmlal v0.4s, v1.4h, v2.4h
        fmlal2 v0.4s, v1.4h, v2.4h
        fmlsl v0.4s, v1.4h, v2.4h
        fmlal v0.4s, v1.4h, v2.h[7]
        fmlsl2 v0.4s, v1.4h, v2.h[1]
        bfmlalb v0.4s, v1.8h, v2.8h
        bfmlalt v0.4s, v1.8h, v2.h[5]""",
    "mla_int": """
        mla v0.4s, v1.4s, v2.4s
        mls v0.16b, v1.16b, v2.16b
        mla v0.8h, v1.8h, v2.h[7]
        mls v0.4s, v1.4s, v31.s[3]
        smlal v0.4s, v1.4h, v2.4h
        umlal2 v0.8h, v1.16b, v2.16b
        smlsl v0.2d, v1.2s, v2.2s
        smlal2 v0.4s, v1.8h, v2.h[7]
        umlal v0.2d, v1.2s, v2.s[1]""",
    "dot_int8": """
        sdot v0.4s, v1.16b, v2.16b
        udot v0.2s, v1.8b, v2.8b
        usdot v0.4s, v1.16b, v2.16b
        sdot v31.4s, v30.16b, v29.4b[3]
        udot v0.4s, v1.16b, v2.4b[0]
        usdot v0.4s, v1.16b, v2.4b[1]
        sudot v0.4s, v1.16b, v2.4b[2]""",
    "dot_bf16": """
        bfdot v0.4s, v1.8h, v2.8h
        bfdot v31.4s, v30.8h, v29.2h[3]""",
    "mmla_int8": """
        smmla v0.4s, v1.16b, v2.16b
        ummla v0.4s, v1.16b, v2.16b
        usmmla v0.4s, v1.16b, v2.16b""",
    "mmla_bf16": "bfmmla v0.4s, v1.8h, v2.8h",
    "vector_load": """
        ldr q0, [x0, #16]
        ldr q0, [x0], #16
        ldr q0, [x0, #-16]!
        ldr d0, [x0, #8]
        ldr s0, [x0, xzr]
        ldur q0, [x0, #1]
        ldp q0, q1, [x0, #32]
        ldp q0, q1, [x0], #32
        ldp d0, d1, [x0, #-32]!
        ldnp s0, s1, [x0]
        ld1 {v0.4s}, [x0]
        ld1 {v0.4s, v1.4s, v2.4s, v3.4s}, [x0], #64
        ld4 {v0.4s, v1.4s, v2.4s, v3.4s}, [x0]
        ld1 {v0.s}[1], [x0]
        ld1r {v0.4s}, [x0]
        ld1 {v0.h}[2], [x0], #2
        ldr q0, _start""",
    "vector_store": """
        str q0, [x0, #16]
        str q0, [x0], #16
        str s0, [x0, xzr]
        stur d0, [x0, #1]
        stp q0, q1, [x0, #32]
        stp q0, q1, [x0], #32
        stnp q0, q1, [x0]
        st1 {v0.4s, v1.4s}, [x0]
        st1 {v0.s}[3], [x0], #4
        st2 {v0.8h, v1.8h}, [x0]""",
    "vector_other": """
        fmul v0.4s, v1.4s, v2.s[1]
        fadd v0.4s, v1.4s, v2.4s
        mul v0.4s, v1.4s, v2.4s
        smull v0.4s, v1.4h, v2.4h
        fmadd s0, s1, s2, s3
        fmla s0, s1, v2.s[1]
        dup v0.4s, v1.s[2]
        mov v0.16b, v1.16b
        fcvtn v0.4h, v1.4s
        fmov s0, w1
        movi v0.4s, #0
        faddp v0.4s, v1.4s, v2.4s
        tbl v0.16b, {v1.16b}, v2.16b
        fcmla v0.4s, v1.4s, v2.4s, #90
        sqdmlal v0.4s, v1.4h, v2.4h
        fmulx v0.4s, v1.4s, v2.4s""",
    "load": """
        ldr x1, [x0]
        ldrsb w1, [x0, #1]
        ldrsw x1, [x0, #4]
        ldr x1, [x0], #8
        ldur x1, [x0, #4]
        ldr x1, [x0, xzr]
        ldp x1, x2, [x0]
        ldpsw x1, x2, [x0]
        ldr x1, _start
        ldar x1, [x0]
        ldxr w1, [x0]
        ldapr w1, [x0]
        ldadd w1, w2, [x0]
        swpal x1, x2, [x0]""",
    "store": """
        str x1, [x0]
        strb w1, [x0, #1]
        str w1, [x0], #4
        sturh w1, [x0, #3]
        str x1, [x0, xzr]
        stp x1, x2, [x0, #16]
        stlr w1, [x0]
        stlur w1, [x0, #4]""",
    "prefetch": """
        prfm pldl2keep, [x0, #64]
        prfm pldl1strm, [x0, xzr]
        prfum pldl1keep, [x0, #1]
        prfm pldl1keep, _start""",
    "branch": """
        b 1f
        1: bl 1f
        1: cbz xzr, 1f
        1: cbnz xzr, 1f
        1: tbz x0, #5, 1f
        1: tbnz x0, #63, 1f
        1: b.eq 1f
        1: b.ne 1f
        1:""",
    "sve": """
        ptrue p0.s
        fmla z0.s, p0/m, z1.s, z2.s
        ld1w {z0.s}, p0/z, [x0]""",
    "other": """
        add x1, x2, #4
        madd x1, x2, x3, x4
        nop
        dmb ish
        adr x1, _start
        mrs x1, fpcr
        csel x1, x2, x3, eq""",
}
PROGRAM = """
    .arch armv8.6-a+fp16+fp16fml+dotprod+i8mm+bf16+sve
    .text
    .globl _start
_start:
    sub sp, sp, #1024
    add x0, sp, #256
{instructions}
    mov x0, #0
    mov x8, #93
    svc #0
"""
AROUND = 5  # of the class `other`


@pytest.fixture(scope="module")
def assemble(tmp_path_factory):
    if emulation.find_tool(emulation.QEMU) is None:
        pytest.skip(f"{emulation.QEMU} is not installed (apt install qemu-user)")
    try:
        emulation.plugin()
        cross = emulation.compiler()
    except emulation.Unavailable as error:
        pytest.skip(str(error))

    def build(instructions):
        folder = tmp_path_factory.mktemp("assembled")
        (folder / "program.s").write_text(PROGRAM.format(instructions=instructions), encoding="utf-8")
        flags = ["-nostdlib", "-static", "-o", folder / "program", folder / "program.s"]
        emulation.run_or_raise([*cross.command, *flags], "assembling")
        return folder / "program"

    return build


def lines(text):
    return [line for line in text.split("\n") if line.strip() not in ("", "1:")]


@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_each_class_is_counted_as_itself(assemble, kind):
    counts = emulation.count([assemble(INSTRUCTIONS[kind])], cpu="max")
    expected = dict.fromkeys(counts.classes, 0)
    expected["other"] = AROUND
    expected[kind] += len(lines(INSTRUCTIONS[kind]))
    assert counts.classes == expected
    assert counts.total == sum(expected.values())


def test_every_class_has_instructions_here(assemble):
    assert emulation.count([assemble("nop")], cpu="max").classes.keys() == INSTRUCTIONS.keys()


def test_loops_and_differences(assemble):
    loop = """
        mov x1, #1000
    1:  fmla v0.4s, v1.4s, v2.s[0]
        ldr q1, [x0]
        subs x1, x1, #1
        b.ne 1b"""
    counts = emulation.count([assemble(loop)], cpu="cortex-a57", hottest=1)
    assert counts.classes["fma_fp32"] == counts.classes["vector_load"] == counts.classes["branch"] == 1000
    (block,) = counts.hottest
    assert block["executions"] in (999, 1000)  # the first round may belong to the block in front
    assert len(block["instructions"]) == 4
    assert "fmla" in block["instructions"][0]
    assert (counts - counts).total == 0
    assert counts.products == 4000


def test_a_program_that_fails_is_an_error(assemble):
    with pytest.raises(emulation.Failed, match="exit status") as caught:
        emulation.count([assemble("udf #0")], cpu="max")
    assert caught.value.status != 0
