"""The innermost loops of the ARM kernels, as the compilers make them: no spills, and what a model of the CPU says.

    python bench/arm/inner_loops.py                  every compiler that is installed; exit status 1 for a spill
    python bench/arm/inner_loops.py --compiler gcc --show neon    one, with the listings of its main tiles

Every csrc/isa/*.cpp of an aarch64 build is compiled to assembly with that build's own flags. Of its functions the
innermost loops that multiply and add vectors are taken. None may load or store a vector on the stack: an accumulator
that does not stay in its register costs more than the multiplication.

With llvm-mca 19 or newer there is a table besides: cycles per multiply-add of each tier's largest tiles in LLVM's
models of some cores, as per cent of the same model's peak, which is that of a block of nothing but independent
multiply-adds. `*` marks attention's tiles; copies are registers moved and lanes duplicated. The models know of pipes,
latencies and dependences; of caches they know nothing: all loads hit L1.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import emulation
from emulation import Compiler, Unavailable, run_or_raise

# Classes of instruction_mix.c, as they are spelt in assembly.
MULTIPLIES = (
    ("fma_fp32", re.compile(r"(fmla|fmls)\s+v\d+\.[42]s")),
    ("fma_fp16", re.compile(r"(fmla|fmls)\s+v\d+\.[48]h")),
    ("fma_widening", re.compile(r"(fmlal2?|fmlsl2?|bfmlal[bt])\s+v")),
    ("dot_int8", re.compile(r"(sdot|udot|usdot|sudot)\s+v")),
    ("dot_bf16", re.compile(r"bfdot\s+v")),
    ("mmla_int8", re.compile(r"(smmla|ummla|usmmla)\s+v")),
    ("mmla_bf16", re.compile(r"bfmmla\s+v")),
    ("mla_int", re.compile(r"(mla|mls|[su]mlal2?)\s+v")),
)
VECTOR_MOVE = re.compile(r"(ldr|str|ldur|stur|ldp|stp)\s+[qd]\d+\b.*\[(sp|x29)\b[^\]]*\]")
COPY = re.compile(r"(mov|dup)\s+v\d+\.\w+, v\d+\.")
LABEL = re.compile(r"^([.\w$]+):")
FUNCTION = re.compile(r"\.type\s+([\w.$]+), ?[@%]function")
# GCC writes bne for b.ne.
CONDITIONAL = r"b\.?(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)|cbn?z|tbn?z"
JUMP = re.compile(rf"(?:{CONDITIONAL}|b|br|ret|brk|udf)(?: |$)")
UNCONDITIONAL = re.compile(r"(?:b|br|ret|brk|udf)(?: |$)")
BRANCH = re.compile(rf"(?:{CONDITIONAL}|b) (?:.*, )?(\.L[\w.$]+)$")
TILE = re.compile(r"ILi(\d+)ELi(\d+)EE")

# LLVM's models, and what they stand for. Each is asked only about instructions that its cores have.
MODELS = {
    "cortex-a57": {"fma_fp32"},
    "neoverse-n1": {"fma_fp32", "fma_fp16", "dot_int8"},
    "neoverse-v1": {"fma_fp32", "fma_fp16", "dot_int8", "dot_bf16", "mmla_int8", "mmla_bf16"},
}
# Independent multiply-adds, accumulator by accumulator.
PEAK = {
    "fma_fp32": "fmla v{i}.4s, v30.4s, v31.s[0]",
    "fma_fp16": "fmla v{i}.8h, v30.8h, v15.h[0]",
    "dot_int8": "sdot v{i}.4s, v30.16b, v31.4b[0]",
    "dot_bf16": "bfdot v{i}.4s, v30.8h, v31.2h[0]",
    "mmla_int8": "smmla v{i}.4s, v30.16b, v31.16b",
    "mmla_bf16": "bfmmla v{i}.4s, v30.8h, v31.8h",
}
PEAK_ACCUMULATORS = [i for i in range(28) if i != 15]
ATTRIBUTES = "+fullfp16,+dotprod,+bf16,+i8mm"


@dataclass(frozen=True)
class Loop:
    """The instructions of its blocks, in the order of the assembly."""

    tier: str
    function: str
    lines: tuple[str, ...]
    uses_frame_pointer: bool

    def multiplies(self) -> dict[str, int]:
        counts = {name: sum(bool(p.match(line)) for line in self.lines) for name, p in MULTIPLIES}
        return {name: count for name, count in counts.items() if count}

    def kind(self) -> str:
        counts = self.multiplies()
        return max(counts, key=counts.__getitem__)

    def stack_moves(self) -> list[str]:
        moves = []
        for line in self.lines:
            found = VECTOR_MOVE.match(line)
            # Where x29 is no frame pointer it is a register like any other.
            if found and (found[2] == "sp" or self.uses_frame_pointer):
                moves.append(line)
        return moves

    def copies(self) -> int:
        """Of registers, and of single lanes into whole ones: what multiplying by lane should need none of."""
        return sum(bool(COPY.match(line)) for line in self.lines)

    def tile(self) -> tuple[int, int]:
        """MR, NV of the function's name, or zeros."""
        found = TILE.search(self.function)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def clean(assembly: str) -> list[str]:
    """Labels, instructions, and .type directives, without comments, blanks between words being single."""
    lines = []
    for raw in assembly.splitlines():
        line = re.sub(r"\s+", " ", raw.split("//")[0]).strip()
        directive = line.startswith(".") and not LABEL.match(line) and not line.startswith(".type")
        if line and not directive and not line.startswith("#"):
            lines.append(line)
    return lines


def functions(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    names = {match[1] for line in lines if (match := FUNCTION.match(line))}
    current = None
    for line in lines:
        label = LABEL.match(line)
        if label and label[1] in names:
            current = found.setdefault(label[1], [])
        elif current is not None and not line.startswith(".type"):
            current.append(line)
    return found


@dataclass
class Block:
    """Instructions that run one after the other; `next` are the blocks behind them."""

    lines: list[str]
    next: set[int]


def blocks_of(lines: list[str]) -> list[Block]:
    """A function as basic blocks, in the order of the assembly; the first is its entry."""
    blocks: list[Block] = [Block([], set())]
    at: dict[str, int] = {}
    for line in lines:
        label = LABEL.match(line)
        if label and blocks[-1].lines:
            blocks.append(Block([], set()))
        if label:
            at[label[1]] = len(blocks) - 1
            continue
        blocks[-1].lines.append(line)
        if JUMP.match(line):
            blocks.append(Block([], set()))
    for i, block in enumerate(blocks):
        last = block.lines[-1] if block.lines else ""
        branch = BRANCH.match(last)
        if branch and branch[1] in at:
            block.next.add(at[branch[1]])
        if not UNCONDITIONAL.match(last) and i + 1 < len(blocks):
            block.next.add(i + 1)
    return blocks


def natural_loops(blocks: list[Block]) -> dict[int, set[int]]:
    """By header: the blocks from which it is reached again without leaving the loop."""
    before: list[set[int]] = [set() for _ in blocks]
    for i, block in enumerate(blocks):
        for j in block.next:
            before[j].add(i)
    everything = set(range(len(blocks)))
    dominators = [{0}] + [everything] * (len(blocks) - 1)
    changed = True
    while changed:
        changed = False
        for i in range(1, len(blocks)):
            common = set.intersection(*(dominators[j] for j in before[i])) if before[i] else set()
            changed |= (new := common | {i}) != dominators[i]
            dominators[i] = new
    loops: dict[int, set[int]] = {}
    for i, block in enumerate(blocks):
        for header in block.next & dominators[i]:
            body, waiting = loops.setdefault(header, {header}), [i]
            while waiting:
                j = waiting.pop()
                if j not in body:
                    body.add(j)
                    waiting += before[j]
    return loops


def innermost_loops(tier: str, assembly: str) -> list[Loop]:
    """Those that multiply and add vectors."""
    loops = []
    for name, lines in functions(clean(assembly)).items():
        blocks = blocks_of(lines)
        found = natural_loops(blocks)
        frame = any(re.match(r"(mov|add) x29, sp", line) for line in lines)
        for header, body in found.items():
            if any(other in body for other in found if other != header):
                continue
            loop = Loop(tier, name, tuple(line for i in sorted(body) for line in blocks[i].lines), frame)
            if loop.multiplies():
                loops.append(loop)
    return loops


def compile_tiers(compiler: Compiler) -> dict[str, str]:
    """Assembly of every ISA file but the scalar one."""
    folder = emulation.configure(compiler)
    newest = max(path.stat().st_mtime for path in (emulation.ROOT / "csrc").rglob("*") if path.is_file())

    def compile_one(entry: dict[str, str]) -> str:
        source = Path(entry["file"])
        words = shlex.split(entry["command"])
        at = words.index("-o")
        del words[at : at + 2]
        words[words.index("-c")] = "-S"
        words += ["-g0", "-o", str(out := folder / f"{source.stem}.s")]
        stamp = out.with_suffix(".command")
        fresh = out.exists() and stamp.exists() and stamp.stat().st_mtime > newest
        if not fresh or stamp.read_text(encoding="utf-8") != str(words):
            run_or_raise(words, f"compiling {source.name}", cwd=entry["directory"])
            stamp.write_text(str(words), encoding="utf-8")
        return out.read_text(encoding="utf-8")

    entries = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    tiers = {Path(entry["file"]).stem: entry for entry in entries if Path(entry["file"]).parent.name == "isa"}
    del tiers["scalar"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(tiers, pool.map(compile_one, tiers.values())))


# --- models ---


def mca() -> str | None:
    """llvm-mca, 19 or newer: older models of these cores lack instructions."""
    path = emulation.find_tool("llvm-mca-19", "llvm-mca-20", "llvm-mca-21", "llvm-mca-22", "llvm-mca")
    if path is None:
        return None
    version = re.search(r"version (\d+)", emulation.run([path, "--version"]).stdout)
    return path if version and int(version[1]) >= 19 else None


def cycles(program: str, lines: list[str], cpu: str) -> float | None:
    """Of one round of a loop of these lines, deep in the loop; None where the model does not know an instruction."""

    def total(iterations: int) -> int | None:
        options = ["-mtriple=aarch64", f"-mcpu={cpu}", f"-mattr={ATTRIBUTES}", f"-iterations={iterations}"]
        done = emulation.run([program, *options, "-"], input="\n".join(lines) + "\n")
        found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
        return int(found[1]) if done.returncode == 0 and found else None

    few, many = total(100), total(300)
    return None if few is None or many is None else (many - few) / 200


@functools.cache
def peak(program: str, kind: str, cpu: str) -> float | None:
    """Cycles of one multiply-add among independent ones."""
    spent = cycles(program, [PEAK[kind].format(i=i) for i in PEAK_ACCUMULATORS], cpu)
    return None if spent is None else spent / len(PEAK_ACCUMULATORS)


def main_tiles(loops: list[Loop]) -> list[Loop]:
    """Of every tier and kind of product the loop with most multiply-adds in the largest tile."""
    best: dict[tuple[str, str, bool], Loop] = {}

    def size(loop: Loop) -> tuple[int, int]:
        return loop.tile()[0] * loop.tile()[1], loop.multiplies()[loop.kind()]

    for loop in loops:
        if loop.tile() == (0, 0):
            continue
        key = (loop.tier, loop.kind(), "ConvTile" in loop.function)
        if key not in best or size(loop) > size(best[key]):
            best[key] = loop
    return list(best.values())


def print_table(compiler: Compiler, loops: list[Loop], program: str) -> None:
    print(
        f"{'compiler':8} {'tier':10} {'product':10} {'tile':6} {'instr.':>6} {'mul-adds':>8} {'copies':>6} "
        f"{'model':12} {'cycles/mul-add':>14} {'at best':>8} {'% of peak':>9}"
    )
    for loop in main_tiles(loops):
        kind = loop.kind()
        count = loop.multiplies()[kind]
        rows, vectors = loop.tile()
        name = "x".join(map(str, (rows, vectors))) + ("" if "ConvTile" in loop.function else " *")
        for cpu, known in MODELS.items():
            if kind not in known:
                continue
            best, spent = peak(program, kind, cpu), cycles(program, list(loop.lines), cpu)
            if best is None or spent is None:
                print(f"{compiler.name:8} {loop.tier:10} {kind:10} {name:6} unknown to the model {cpu}")
                continue
            each = spent / count
            print(
                f"{compiler.name:8} {loop.tier:10} {kind:10} {name:6} {len(loop.lines):6} {count:8} "
                f"{loop.copies():6} {cpu:12} {each:14.3f} {best:8.3f} {100 * best / each:9.1f}"
            )


def spills(compiler: Compiler, loops: list[Loop]) -> list[str]:
    found = []
    for loop in loops:
        moves = loop.stack_moves()
        if moves:
            found.append(
                f"{compiler.name}, {loop.tier}: {loop.function}: {len(moves)} vector moves to or from the stack "
                f"in a loop of {len(loop.lines)} instructions, e.g. {moves[0]}"
            )
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Innermost loops of the ARM kernels: spills, and models of cores.")
    parser.add_argument("--compiler", action="append", help="gcc, zig or clang; default: all that are installed")
    parser.add_argument("--show", metavar="TIER", help="print the main tiles' loops of this tier")
    args = parser.parse_args(argv)
    try:
        chosen = [emulation.compiler(name) for name in args.compiler] if args.compiler else emulation.compilers()
        if not chosen:
            emulation.compiler()
        bad, program = [], mca()
        for compiler in chosen:
            assembly = compile_tiers(compiler)
            loops = [loop for tier, text in assembly.items() for loop in innermost_loops(tier, text)]
            print(f"{compiler.version()}: {len(loops)} innermost loops in {', '.join(assembly) or 'no tier'}")
            if program:
                print_table(compiler, loops, program)
            for loop in main_tiles(loops):
                if loop.tier == args.show:
                    print(loop.function, *loop.lines, sep="\n  ")
            bad += spills(compiler, loops)
    except Unavailable as error:
        print(f"inner_loops: error: {error}", file=sys.stderr)
        return 2
    if program is None:
        print("llvm-mca 19 or newer is NOT INSTALLED: no models of cores")
    for line in bad:
        print("SPILL", line)
    print(f"{len(bad)} loops with spills" if bad else "no loop moves a vector to or from the stack")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
