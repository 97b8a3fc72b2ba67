# weigh: log-densities of the scored frames of one system's training MD under one model, where alignment asks for paths
#   in   the model; sample/<model>/<system>/posteriors.json; dataset/<system>/topology.pdb, training.dcd;
#        score/training/<system>.parquet
#   out  weigh/<model>/<system>.parquet  one row for each frame that has an energy, or for some, basin by basin
#        weigh/<model>/<system>.json     what made it


rule weigh:
    """Paths that noise each frame, of the kind that draws the samples; every line that starts from the model shares them."""
    input:
        model=RUN.model,
        record=RUN.model_record,
        posteriors="<results>/sample/{model}/{system}/posteriors.json",
        topology="<results>/dataset/{system}/topology.pdb",
        conformers="<results>/dataset/{system}/training.dcd",
        energies="<results>/score/training/{system}.parquet",
    output:
        densities="<results>/weigh/{model}/{system}.parquet",
        record="<results>/weigh/{model}/{system}.json",
    log:
        "<results>/logs/weigh/{model}/{system}.log",
    benchmark:
        "<results>/benchmarks/weigh/{model}/{system}.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: RUN.path_threads
    params:
        settings=RUN.settings("weigh"),
        code=RUN.code("weigh"),
        seed=RUN.weigh_seed,
    message:
        "weigh: training MD of {wildcards.system} under {wildcards.model}"
    shell:
        "python -m ancdiff weigh --settings - --model {input.model} --posteriors {input.posteriors}"
        " --topology {input.topology} --conformers {input.conformers} --energies {input.energies} --output {output.densities}"
        " --seed {params.seed} --threads {threads} <<< {params.settings:q} > {log} 2>&1"
