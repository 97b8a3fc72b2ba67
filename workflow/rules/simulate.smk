# simulate: molecular dynamics of a system that is given as a sequence; clouds of points; tempering of an exact system;
#           conformers of a small molecule
#   in   nothing but the settings, or data/peptides/<system>/<md>.* with simulate.source: bundled, or a molecule's file
#   out  simulate/<system>/<md>.dcd      heavy atoms; topology.pdb lies beside it, shared by both MD data sets
#        simulate/<system>/<md>.json     what made it
#        simulate/<system>/<md>.parquet  replica and time of each frame


rule simulate:
    """Training MD (short, from chosen basins) or reference MD (converged) of one system, whose repeats go side by side."""
    input:
        files=RUN.simulate_inputs,
    output:
        trajectory="<results>/simulate/{system}/{md}.dcd",
        record="<results>/simulate/{system}/{md}.json",
        frames="<results>/simulate/{system}/{md}.parquet",
    log:
        "<results>/logs/simulate/{system}/{md}.log",
    benchmark:
        "<results>/benchmarks/simulate/{system}/{md}.tsv"
    wildcard_constraints:
        md="training|reference",
    conda:
        "../../envs/ancdiff.yaml"
    threads: RUN.simulate_threads
    params:
        settings=RUN.simulate_settings,
        code=RUN.code("simulate"),
        results=RUN.results,
    message:
        "simulate: {wildcards.md} MD of {wildcards.system}"
    shell:
        "python -m ancdiff simulate --settings - --results {params.results} --system {wildcards.system}"
        " --md {wildcards.md} --threads {threads} <<< {params.settings:q} > {log} 2>&1"
