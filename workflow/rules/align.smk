# align: one round of energy-based alignment, from the last round's model to the next
#   in   the last round's model; conformers and energies of the training MD and of its ancestors
#   out  align/<model>/model.safetensors, model.json  weights, and what made them
#        align/<model>/weights.parquet                Boltzmann weight of each conformer of the pool
#        align/<model>/metrics.parquet                loss, effective sample size, spread of the model energy, error of its differences
# Checkpoints lie in align/<model>/.work, which is no output: Snakemake deletes the outputs of a job that was cut short.


rule align:
    """The model <line>_round<r>. Steps take one thread; a bound of the pool's energies, before them, takes two."""
    input:
        unpack(RUN.align_inputs),
        topologies=RUN.dataset_topologies(),
        split="<results>/dataset/split.parquet",
    output:
        model="<results>/align/{model}/model.safetensors",
        record="<results>/align/{model}/model.json",
        weights="<results>/align/{model}/weights.parquet",
        metrics="<results>/align/{model}/metrics.parquet",
    log:
        "<results>/logs/align/{model}.log",
    benchmark:
        "<results>/benchmarks/align/{model}.tsv"
    wildcard_constraints:
        model=RUN.aligned_pattern,
    conda:
        "../../envs/ancdiff.yaml"
    threads: RUN.align_threads
    params:
        settings=RUN.align_settings,
        code=RUN.code("align"),
        results=RUN.results,
        seed=RUN.align_seed,
    message:
        "align: {wildcards.model}"
    shell:
        "python -m ancdiff align --settings - --results {params.results} --model {wildcards.model}"
        " --seed {params.seed} --threads {threads} <<< {params.settings:q} > {log} 2>&1"
