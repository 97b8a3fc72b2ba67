# evaluate: every ensemble of every system against the reference
#   in   all ensembles and their energies; dataset/split.parquet; where there are particles, the models
#   out  evaluate/metrics.parquet, metrics.tsv  one row for each ensemble, system and metric, with intervals
#        evaluate/summary.parquet, summary.tsv  one row for each ensemble, averaged over systems
#        evaluate/seeds.parquet, seeds.tsv      one row for each model, system and metric of the summary: mean and
#                                               interval over seeds
#        evaluate/metrics.json                  what made them


rule evaluate:
    """Ramachandran divergence, basin free energies, geometry, clashes, energies, beside the reference's own floor."""
    input:
        unpack(RUN.evaluate_inputs),
        topologies=RUN.dataset_topologies(),
        split="<results>/dataset/split.parquet",
    output:
        metrics="<results>/evaluate/metrics.parquet",
        metrics_table="<results>/evaluate/metrics.tsv",
        summary="<results>/evaluate/summary.parquet",
        summary_table=report("<results>/evaluate/summary.tsv", caption="../report/summary.rst", category="Evaluation"),
        seeds="<results>/evaluate/seeds.parquet",
        seeds_table=report("<results>/evaluate/seeds.tsv", caption="../report/seeds.rst", category="Evaluation"),
        record="<results>/evaluate/metrics.json",
    log:
        "<results>/logs/evaluate.log",
    benchmark:
        "<results>/benchmarks/evaluate.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: 1
    params:
        settings=RUN.settings("evaluate"),
        code=RUN.code("evaluate"),
        results=RUN.results,
    message:
        "evaluate: every ensemble against the reference"
    shell:
        "python -m ancdiff evaluate --settings - --results {params.results} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
