# pretrain: one denoiser for all systems, trained on the training MD
#   in   dataset/<system>/topology.pdb, training.dcd; dataset/split.parquet
#   out  pretrain/model.safetensors, model.json  weights, and what made them
#        pretrain/metrics.parquet                training curve
# Checkpoints lie in pretrain/.work, which is no output: Snakemake deletes the outputs of a job that was cut short.


rule pretrain:
    """Supervised denoising of the training MD. Its progress bar goes to the terminal and to the log."""
    input:
        topologies=RUN.dataset_topologies(),
        trajectories=RUN.training_trajectories(),
        split="<results>/dataset/split.parquet",
    output:
        model="<results>/pretrain/model.safetensors",
        record="<results>/pretrain/model.json",
        metrics="<results>/pretrain/metrics.parquet",
    log:
        "<results>/logs/pretrain.log",
    benchmark:
        "<results>/benchmarks/pretrain.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: 2
    params:
        settings=RUN.settings("pretrain"),
        code=RUN.code("pretrain"),
        results=RUN.results,
    message:
        "pretrain"
    shell:
        "python -m ancdiff pretrain --settings - --results {params.results} --threads {threads}"
        " <<< {params.settings:q} 2>&1 | tee {log}"
