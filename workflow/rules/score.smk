# score: force-field energy of every conformer of one ensemble of one system
#   in   an ensemble: dataset/<system>/<md>.dcd or sample/<model>/<system>/conformers.dcd; dataset/<system>/topology.pdb
#        your own force-field files (forcefield.xml), if any
#   out  score/<ensemble>/<system>.parquet  one row for each conformer, failed ones with their reason
#        score/<ensemble>/<system>.json     what made it


rule score:
    """Places and relaxes hydrogens, then takes the energy; particles are taken as they are. MD is thinned."""
    input:
        topology="<results>/dataset/{system}/topology.pdb",
        conformers=RUN.conformers,
        forcefield=RUN.forcefield_files,
    output:
        energies="<results>/score/{ensemble}/{system}.parquet",
        record="<results>/score/{ensemble}/{system}.json",
    log:
        "<results>/logs/score/{ensemble}/{system}.log",
    benchmark:
        "<results>/benchmarks/score/{ensemble}/{system}.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: 1
    params:
        settings=RUN.score_settings,
        code=RUN.code("score"),
        max_conformers=RUN.max_conformers,
    message:
        "score: {wildcards.system}, {wildcards.ensemble}"
    shell:
        "python -m ancdiff score --settings - --topology {input.topology} --conformers {input.conformers}"
        " --output {output.energies} {params.max_conformers} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
