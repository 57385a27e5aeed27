"""Tuning the routers of Mixture-of-Experts models that Hugging Face Transformers runs, and nothing else of them.

`run` does what `remoe-sim finetune` does. Needs torch, transformers and safetensors (extra `remoe-sim[finetune]`);
nothing else of remoe-sim imports this package. Source: ReMoE, arXiv 2605.27081.
"""

from remoe_sim.finetune.recipe import Recipe, Stage, Term, read_recipe, recipe_names
from remoe_sim.finetune.running import Tuned, run

__all__ = ["Recipe", "Stage", "Term", "Tuned", "read_recipe", "recipe_names", "run"]
