"""What test_distributed.py launches in several processes: runs every case and writes what came out as JSON.

PYTHONPATH=tests torchrun --standalone --nproc-per-node 2 -m support.distributed_worker OUT.json
"""

import copy
import json
import sys
import traceback
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from support.hf_models import NO_DROPOUT, NO_GROUPS, TINY, inputs_for, labels_for, ours, relative, stock, worst
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn.parallel import DistributedDataParallel

import squeezebert_kernels as sbk
from squeezebert_kernels.distributed import parallelize

HEAD = "SqueezeBertForSequenceClassification"
TWO_LAYERS = {**TINY, **NO_DROPOUT, "num_hidden_layers": 2}
PUBLISHED_GROUPS = {
    "q_groups": 4, "k_groups": 4, "v_groups": 4,
    "post_attention_groups": 1, "intermediate_groups": 4, "output_groups": 4,
}  # fmt: skip
BATCH = 8


def make(kind="ours", **fields):
    """A model with random weights, the same in every process, in training mode."""
    fields = {**TWO_LAYERS, **fields}
    if kind == "stock":
        return sbk.optimize(stock(HEAD, **fields)).train()
    model = ours(HEAD, **fields)
    model.load_state_dict(stock(HEAD, **fields).state_dict())
    return model.train()


def batch(of=slice(None)):
    whole = {**inputs_for(HEAD, batch=BATCH), **labels_for(HEAD, batch=BATCH)}
    return {name: tensor[of] for name, tensor in whole.items()}


def own_part():
    each = BATCH // dist.get_world_size()
    return batch(slice(dist.get_rank() * each, (dist.get_rank() + 1) * each))


@contextmanager
def counted(into):
    """Fills ``into`` with how often each op of ours ran, but for packing and its checks, which depend on the past."""
    with torch.autograd.profiler.profile() as profile:
        yield
    for event in profile.key_averages():
        namespace, _, name = event.key.partition("::")
        if namespace == "squeezebert_kernels" and "pack" not in name and "checksums" not in name:
            into[name] = event.count


def train(model, inputs, steps=3):
    """Losses, and the ops of the last forward."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    losses, ops = [], {}
    for _ in range(steps):
        ops.clear()
        with counted(ops):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, ops


def mean_over_processes(values):
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return (tensor / dist.get_world_size()).tolist()


def whole_state(model):
    """The parameters of a sharded model, in one piece, in every process (collective)."""
    states = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    found = [states]
    dist.broadcast_object_list(found)
    return found[0]


def states_differ(a, b):
    return max(relative(a[name], b[name]) for name in b)


def reshard(model):
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def unsharded(model):
    """With the parameters that FSDP gives to the layers during a call."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
    yield
    reshard(model)


def reasons(model):
    return [entry.reason for entry in sbk.report(model).fallbacks]


def against_one_process(kind, parallel):
    """A few steps of ``parallel(model)`` on a part of the batch each, and of one process on the whole batch."""
    alone = make(kind)
    expected, expected_ops = train(alone, batch())
    model = parallel(make(kind))
    losses, ops = train(model, own_part())
    result = {
        "losses": mean_over_processes(losses), "expected": expected, "own_losses": losses,
        "ops": ops, "expected_ops": expected_ops,
        "parameters": states_differ(whole_state(model), alone.state_dict()),
    }  # fmt: skip
    with unsharded(model):
        result["fallbacks"] = reasons(model)
    return result


def ddp(kind):
    return against_one_process(kind, DistributedDataParallel)


def shard(model, units, dtype=None):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    encoder = model.transformer.encoder
    policy = MixedPrecisionPolicy(param_dtype=dtype)
    for module in {"model": [], "encoder": [encoder], "layers": encoder.layers}[units]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def fsdp(kind, units, dtype=None):
    return against_one_process(kind, lambda model: shard(model, units, dtype))


def fsdp_gathered_again():
    """Error after new values came into the layers' parameters as FSDP brings them: no version counter tells, and the
    memory, which FSDP frees and allocates again, is often at the same address (here: always)."""
    fields = {"hidden_size": 128, "embedding_size": 128, "intermediate_size": 512}
    alone, model = make(**fields).eval(), shard(make(**fields).eval(), "layers")
    model.set_reshard_after_forward(False)
    inputs = inputs_for(HEAD)
    with torch.no_grad():
        model(**inputs)
        for one in (alone, model):
            weight = one.transformer.encoder.layers[0].intermediate.conv1d.weight
            with torch.autograd._unsafe_preserve_version_counter(weight):
                weight[77, 5] += 3
        return {"difference": relative(model(**inputs).logits, copy.deepcopy(alone)(**inputs).logits)}


def dropout(parallel):
    """The same batch in every process: do they drop alike, and is a model still one model after training?"""
    model = make(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = DistributedDataParallel(model) if parallel == "ddp" else shard(model, "layers")
    torch.manual_seed(100 + dist.get_rank())
    logits = [None] * dist.get_world_size()
    with torch.no_grad():
        dist.all_gather_object(logits, model(**batch()).logits)
    reshard(model)
    return {"different": worst(logits[0], logits[1]), "losses": mean_over_processes(train(model, own_part())[0])}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def tensor_parallel(**fields):
    """One step and the calls after it, in every process on the whole batch, beside one process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    alone, model = make(**fields), make(**fields)
    with torch.no_grad():  # the weights of the first process count
        for parameter in model.parameters():
            parameter += dist.get_rank()
    model = parallelize(model, mesh)
    inputs, result, ops = batch(), {}, {}
    heads = TWO_LAYERS["num_attention_heads"]
    by_head = torch.randn(BATCH, heads, 17, 17, generator=torch.Generator().manual_seed(2))
    for one in (alone, model):
        ops.clear()
        with counted(ops):
            losses = [one(**inputs).loss, one(**{**inputs, "attention_mask": by_head}).loss]
        sum(losses).backward()
        result.setdefault("losses", []).append([loss.item() for loss in losses])
    grads = {name: parameter.grad for name, parameter in alone.named_parameters()}
    scale = max(grad.abs().max().item() for grad in grads.values())
    result["gradients"] = max(worst(whole(p.grad), grads[name]) / scale for name, p in model.named_parameters())
    norms = []
    for one in (alone, model):
        with implicit_replication():
            norms.append(whole(torch.nn.utils.clip_grad_norm_(one.parameters(), 0.1)).item())
            torch.optim.AdamW(one.parameters(), lr=1e-3, eps=1e-3, foreach=True).step()
    result["norms"] = norms
    state = whole_state(model)
    result["parameters"] = states_differ(state, alone.state_dict())
    again = make(**fields)
    again.load_state_dict(state)
    with torch.no_grad():
        outputs = [one.eval()(**inputs, output_attentions=True, output_hidden_states=True) for one in (again, model)]
        plain = model(**inputs)
    result["outputs"] = max(
        relative(b, a)
        for name in ("attentions", "hidden_states")
        for a, b in zip(outputs[0][name], outputs[1][name])
    )  # fmt: skip
    result["logits"] = max(relative(one.logits, outputs[0].logits) for one in (outputs[1], plain))
    result["ops"], result["reasons"] = ops, reasons(model)
    return result


def tensor_parallel_dropout():
    """Processes with random generators of their own must drop the same from what they all have."""
    model = make(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    parallelize(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    torch.manual_seed(100 + dist.get_rank())
    losses, _ = train(model, batch())
    all_losses = [None] * dist.get_world_size()
    dist.all_gather_object(all_losses, losses)
    replicas = torch.cat([p.detach().flatten() for p in model.parameters() if not isinstance(p, DTensor)])
    first = replicas.clone()
    dist.broadcast(first, 0)
    return {"losses": all_losses, "replicas_differ": worst(replicas, first)}


def tensor_parallel_refuses():
    """What parallelize says, and whether the model is as it was."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallel = parallelize(make(), mesh)
    models = {
        "heads": make(num_attention_heads=1, **{name: 1 for name in NO_GROUPS if name.endswith("groups")}),
        "stock": make("stock"),
        "twice": parallel,
        "row_groups": make(hidden_size=30, embedding_size=30, intermediate_size=60, num_attention_heads=2,
                           **{**{name: 1 for name in NO_GROUPS if name.endswith("groups")}, "output_groups": 3}),
        "column_groups": make(hidden_size=30, embedding_size=30, intermediate_size=60, num_attention_heads=2,
                              **{**{name: 1 for name in NO_GROUPS if name.endswith("groups")}, "q_groups": 3}),
        "module": object(),
    }  # fmt: skip
    said = {}
    for name, model in models.items():
        before = {id(p) for p in model.parameters()} if isinstance(model, torch.nn.Module) else None
        try:
            parallelize(model, mesh)
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
        if before is not None and before != {id(p) for p in model.parameters()}:
            said[name] += " BUT CHANGED"
    for name, wrong in {"mesh": None, "mesh_2d": init_device_mesh("cpu", (1, dist.get_world_size()))}.items():
        try:
            parallelize(make(), wrong)
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    conv = parallel.transformer.encoder.layers[0].attention.query
    try:
        type(conv)(4, 4)
    except TypeError as error:
        said["adapter"] = f"TypeError: {error}"
    return said


CASES = {
    "ddp ours": lambda: ddp("ours"),
    "ddp stock": lambda: ddp("stock"),
    "fsdp ours model": lambda: fsdp("ours", "model"),
    "fsdp ours layers": lambda: fsdp("ours", "layers"),
    "fsdp stock model": lambda: fsdp("stock", "model"),
    "fsdp stock encoder": lambda: fsdp("stock", "encoder"),
    "fsdp ours layers bfloat16": lambda: fsdp("ours", "layers", torch.bfloat16),
    "fsdp gathered again": fsdp_gathered_again,
    "ddp dropout": lambda: dropout("ddp"),
    "fsdp dropout": lambda: dropout("fsdp"),
    "tp published": lambda: tensor_parallel(**PUBLISHED_GROUPS),
    "tp tiny": tensor_parallel,
    "tp mixed": lambda: tensor_parallel(q_groups=1, k_groups=2, v_groups=4, attn_implementation="eager"),
    "tp dropout": tensor_parallel_dropout,
    "tp refuses": tensor_parallel_refuses,
}


def main():
    torch.set_num_threads(1)
    # A process that died must not leave the others waiting.
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = {}
    for name, case in CASES.items():
        try:
            mine = case()
        except Exception:
            mine = {"error": traceback.format_exc()}
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        failed = [result for result in everyone if isinstance(result.get("error"), str)]
        results[name] = {**everyone[0], **(failed[0] if failed else {})}
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(results, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
