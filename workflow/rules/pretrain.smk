# pretrain: one denoiser for all systems, trained on the training MD; in a run with several seeds, one for each
#   in   dataset/<system>/topology.pdb, training.dcd; dataset/split.parquet
#   out  pretrain/model.safetensors, model.json  weights, and what made them (several seeds: pretrain/seed<s>/…)
#        pretrain/metrics.parquet                training curve
# Checkpoints lie in .work beside them, which is no output: Snakemake deletes the outputs of a job that was cut short.


rule pretrain:
    """Supervised denoising of the training MD. Its progress bar goes to the terminal and to the log."""
    input:
        topologies=RUN.dataset_topologies(),
        trajectories=RUN.training_trajectories(),
        split="<results>/dataset/split.parquet",
    output:
        model="<results>/pretrain{replicate}/model.safetensors",
        record="<results>/pretrain{replicate}/model.json",
        metrics="<results>/pretrain{replicate}/metrics.parquet",
    log:
        "<results>/logs/pretrain{replicate}.log",
    benchmark:
        "<results>/benchmarks/pretrain{replicate}.tsv"
    wildcard_constraints:
        replicate=RUN.replicate_pattern,
    conda:
        "../../envs/ancdiff.yaml"
    threads: 2
    params:
        settings=RUN.settings("pretrain"),
        code=RUN.code("pretrain"),
        results=RUN.results,
        model=RUN.pretrained_model,
        seed=RUN.pretrain_seed,
    message:
        "pretrain: {params.model}"
    shell:
        "python -m ancdiff pretrain --settings - --results {params.results} --model {params.model}"
        " --seed {params.seed} --threads {threads} <<< {params.settings:q} 2>&1 | tee {log}"
