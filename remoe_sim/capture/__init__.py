"""Recording the expert routing of models that Hugging Face Transformers or llama.cpp runs.

`record` watches a Transformers model of one's own while it generates or is evaluated, `run` does what `remoe-sim
capture` does. Needs torch and transformers (extra `remoe-sim[capture]`), for GGUF files llama-cpp-python and gguf
(`remoe-sim[llamacpp]`); nothing else of remoe-sim imports this package.
"""

from remoe_sim.capture.recorder import Recorder, record
from remoe_sim.capture.running import run

__all__ = ["Recorder", "record", "run"]
