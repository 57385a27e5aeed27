"""Captures in the layout of BigMoeOnEdge."""

PREAMBLE = """\
# route_trace v1
# model=/data/local/tmp/Tiny-MoE-Q4_K_M.gguf arch=tinymoe n_layer=3 n_expert=8 n_expert_used=2
# layer=0 expert_bytes=0 dense_bytes=100
# layer=1 expert_bytes=1000 dense_bytes=200
# layer=2 expert_bytes=2000 dense_bytes=300
"""

COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"

# from line 7 on, layer-major in prefill; the last layer is pruned to the last prompt token; layer 0 is dense
ROWS = """\
0,0,0,1,0,5,0.6,0,1000
0,0,0,1,1,2,0.4,0,1000
0,0,1,1,0,2,0.7,0,0
0,0,1,1,1,7,0.3,0,1000
0,0,1,2,0,1,0.9,0,2000
0,0,1,2,1,0,0.1,0,2000
0,1,2,1,0,7,0.8,1,0
0,1,2,1,1,5,nan,2,0
0,1,2,2,0,3,0.5,0,2000
0,1,2,2,1,1,0.5,1,0
1,0,0,1,0,6,0.5,0,1000
1,0,0,1,1,5,0.5,1,0
1,0,0,2,0,4,0.5,0,2000
1,0,0,2,1,3,0.5,1,0
"""


def capture(folder, rows=ROWS, preamble=PREAMBLE, columns=COLUMNS, name="tiny.route.csv"):
    path = folder / name
    path.write_text(f"{preamble}{columns}\n{rows}")
    return path
