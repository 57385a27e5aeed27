"""Valid inputs of every target, to begin with: the fixtures of the tests, written out."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import remoe_sim
from remoe_sim import finetune
from tests.support import foreign_files, plain_files
from tests.support.bigmoe import capture
from tests.support.configs import CONFIGS
from tests.support.foreign_files import FOREIGN
from tests.support.more_foreign import MORE
from tests.support.small import small

PACKAGE = Path(remoe_sim.__file__).parent
FLAME = ("actives/iter_0010/layer_02.parquet", "actives/iter_0010/layer_03.parquet", "samples/000.parquet")
TEXTS = {  # of every parser of the command line
    "bytes": ("4000MiB", "1.5 GB", "4096", "0", ".5kib"),
    "range": ("8", "4,8,16", "4:64", "4:64:4"),
    "count": ("0", "12", "123456789012345678"),
    "number": ("0.5", "1e3", "0"),
    "ms": ("150ms", "0.15s", "12"),
    "where": ("has_repetition=false", "dataset!=gpqa_main"),
    "pin": ("3:0", "3:0,120:1", "120:0,3:65535"),
    "policy": ("lru,lfu,belady", "lfu-aged:half_life=64", "fifo", "static", "two-random:seed=3"),
    "budget": ("10%", "10%:50%:10%", "4GiB,10%", "auto"),
    "cache": ("auto", "4:64:4", "8,16"),
    "batch": ("trace", "1,2,4", "1:8"),
    "reserve": ("3GiB", "dense,1GiB"),
    "expert_bytes": ("3MiB", "3MiB,2MiB"),
    "setting": ("scope=global", "admission=bypass", "phase=decode", "warmup=3", "order=sequential", "reset=request"),
}
COMMANDS = (
    "replay --cache 1", "replay --cache 2 --pin 3:0 --policy lru,fifo", "replay --budget 1KiB --scope global",
    "replay --memory 1KiB --reserve dense,8 --phase decode", "curve --policy lru --phase prefill",
    "replay --cache 4 --admission bypass --order sequential --reset request --warmup 1 --json",
    "batches --batch 1,2 --cache 2", "info", "replay --cache 1 --batch 2 --draft 2 --accept 0.5 --seed 3",
    "replay --cache 2 --expert-bytes 3MiB,1KiB --preload trace", "split --cache 2 --min-part 1", "info --json",
    "prefetch --cache 2 --predictor previous", "reroute --cache 2 --method bias", "tiers --tier 1KiB,1KiB",
)  # fmt: skip


def imports(folder):
    """(format, content) of every file that can be imported."""
    found = []
    for number, (name, fixture) in enumerate((FOREIGN | MORE).items()):
        place = folder / str(number)
        place.mkdir()
        path = fixture.write(place)
        if path.is_file():
            found.append((name.split()[0], path.read_bytes()))
    for form, name in {"long": "csv", "wide": "csv", "jsonl": "jsonl", "npz": "npz"}.items():
        found.append((name, plain_files.written(folder, form).read_bytes()))
    found.append(("bigmoe", capture(folder).read_bytes()))
    with_all = [one | {"weights": [0.7, 0.3], "step": n, "token_id": n} for n, one in enumerate(plain_files.objects())]
    found.append(("jsonl", plain_files.write_jsonl(folder, with_all).read_bytes()))
    rows = pa.Table.from_pylist(plain_files.objects())
    pq.write_table(rows, folder / "rows.parquet")
    with pa.ipc.new_stream(folder / "rows.arrow", rows.schema) as writer:
        writer.write_table(rows)
    found += [("tables", (folder / name).read_bytes()) for name in ("rows.parquet", "rows.arrow")]
    found.append(("layer-json", b'{"selected_experts": [[5, 2], [2, 7]], "weights": [[0.6, 0.4], [0.5, 0.5]]}'))
    full = plain_files.write_csv(folder, f"{plain_files.LONG},weight,slot,step,token_id", ["a,0,decode,0,1,.5,0,0,7"])
    found.append(("csv", full.read_bytes()))
    found += [(name, gzip.compress(content, 1)) for name, content in found[::5]]
    return found + [(name, pa.compress(content, "zstd", asbytes=True)) for name, content in found[:-1:9]]


def flame(folder):
    """Each file of a directory of FLAME-MoE, behind a byte that says which it is."""
    place = foreign_files.flame_moe(folder)
    return [bytes([number]) + (place / name).read_bytes() for number, name in enumerate(FLAME)]


def traces(folder):
    """Trace files."""
    remoe_sim.write_trace(small(), folder / "t.parquet")
    rows = small(token_id=None, source=remoe_sim.InMemory(small().source.layers), notes="", origin={})
    remoe_sim.write_trace(rows, folder / "u.parquet")
    return [(folder / name).read_bytes() for name in ("t.parquet", "u.parquet")]


def cards(kind):
    """The cards of the package."""
    return [path.read_bytes() for path in sorted((PACKAGE / kind / "cards").glob("*.toml"))]


def recipes():
    """The recipes of the package."""
    return [path.read_bytes() for path in sorted((Path(finetune.__file__).parent / "recipes").glob("*.toml"))]


def configs():
    """Configurations of Hugging Face."""
    return [json.dumps(one, indent=1).encode() for one in CONFIGS.values()]


def ggufs(folder):
    """Models of a few kB."""
    from tests.support.tiny_gguf import FAMILIES, save_tiny_gguf

    found = []
    for family in FAMILIES:
        path = save_tiny_gguf(folder / f"{family}.gguf", family, layers=2, experts=3, hidden=32, inner=4)
        found.append(Path(path).read_bytes())
    return found


def texts():
    """NAME value, for every parser."""
    return [f"{name} {one}".encode() for name, ones in TEXTS.items() for one in ones]


def commands():
    """Command lines without the trace, which comes second."""
    return [line.encode() for line in COMMANDS]


def runs():
    """Tables of measured runs and metrics."""
    return [
        b"id,model,quant,tpot_ms,MiB_read_per_token,mode,topk_used\na,Qwen3-30B-A3B,Q4_K_M,120,300,serial 4 lanes,6\n",
        b"model,tok_s,hit_rate_pct,overlap,lanes\nqwen3-30b-a3b,8.5,60,layer,2\n",
        b"token,wall_ms,read_bytes,stall_ms\n0,120,3000000,20\n1,90,0,0\n",
    ]


def prompts():
    """JSON Lines with prompts."""
    lines = [{"prompt": "Is it?"}, {"messages": [{"role": "user", "content": "a"}]}, {"text": "b", "completion": "c"}]
    return ["\n".join(map(json.dumps, lines)).encode(), b'{"prompt": "x"}\n']


def sweeps(folder):
    """The result of a sweep."""
    path = folder / "s.parquet"
    remoe_sim.sweep(small(path="t"), policy="lru", cache="1:2", output=path)
    return [path.read_bytes()]


def fresh(folder):
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
