"""No innermost loop of the ARM kernels keeps a vector on the stack, whatever compiler of ours makes it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "arm"))
emulation = pytest.importorskip("emulation", reason="bench/arm is in source checkouts only")
inner_loops = pytest.importorskip("inner_loops")

ASSEMBLY = """
    .type   _Z4tileILi8ELi2EEvv, %function
_Z4tileILi8ELi2EEvv:
    stp     q8, q9, [sp, -32]!
.L5:
    mov     x1, x2
.L2:                                   // the inner loop
    ldp     q0, q1, [x1], 32
    fmla    v2.4s, v0.4s, v1.s[0]
#APP
    {first}
#NO_APP
    cmp     x1, x3
    beq     .L3
    fmla    v3.4s, v0.4s, v1.s[1]
    {second}
    bne     .L2
.L3:
    fmla    v4.4s, v0.4s, v1.s[1]
    str     q4, [sp, 64]
    cbnz    x4, .L5
    ldp     q8, q9, [sp], 32
    ret
    .type   other, @function
other:
{frame}
.LBB1_1:
    ldr     q0, [x29, #16]
    sdot    v2.4s, v0.16b, v1.4b[3]
    b.ne    .LBB1_1
    ret
    .type   no_products, %function
no_products:
.LBB2_1:
    str     q0, [sp, #16]
    cbz     x0, .LBB2_1
    ret
"""


def loops(first="nop", second="nop", frame=""):
    return inner_loops.innermost_loops("neon", ASSEMBLY.format(first=first, second=second, frame=frame))


def test_loops_are_innermost_and_multiply():
    tile, other = loops()
    assert tile.lines[0] == "ldp q0, q1, [x1], 32"
    assert tile.lines[-1] == "bne .L2"
    assert tile.multiplies() == {"fma_fp32": 2}
    assert len(tile.lines) == 8
    assert tile.tile() == (8, 2)
    assert other.multiplies() == {"dot_int8": 1}
    assert not tile.stack_moves()


@pytest.mark.parametrize("move", ["str q2, [sp, 16]", "ldp q2, q3, [sp, #-32]!", "ldr d8, [sp]", "stur q1, [sp, #8]"])
def test_spills_are_found(move):
    tile, _ = loops(second=move)
    assert tile.stack_moves() == [move]


@pytest.mark.parametrize("move", ["str x2, [sp, 16]", "ldr q2, [x2, 16]", "ldr s1, [sp, 8]", "ld1 {v0.4s}, [x1]"])
def test_other_moves_are_no_spills(move):
    tile, _ = loops(first=move)
    assert not tile.stack_moves()


def test_x29_is_the_stack_where_it_is_the_frame_pointer():
    assert not loops()[1].stack_moves()
    assert loops(frame="    add x29, sp, #64")[1].stack_moves()


def test_copies_are_counted():
    assert loops(first="mov v5.16b, v4.16b", second="dup v5.8h, v4.h[3]")[0].copies() == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcc", "zig"])
def test_no_inner_loop_spills(name):
    try:
        compiler = emulation.compiler(name)
        assembly = inner_loops.compile_tiers(compiler)
    except emulation.Unavailable as error:
        pytest.skip(str(error))
    assert "neon" in assembly
    for tier, text in assembly.items():
        found = inner_loops.innermost_loops(tier, text)
        assert any(loop.tile() != (0, 0) for loop in found), f"{tier}: no loop of a tile found"
        assert inner_loops.spills(compiler, found) == []
