# sample: conformers of one system from one model
#   in   pretrain/…/model.safetensors or align/<model>/model.safetensors; dataset/<system>/topology.pdb
#   out  sample/<model>/<system>/conformers.dcd, topology.pdb  a pair that viewers open
#        sample/<model>/<system>/conformers.json               what made it
#        sample/<model>/<system>/reverse.dcd                   one conformer's way from noise to shape
#        sample/<model>/<system>/log_density.parquet           log p of each conformer, with sample.log_density
#        sample/<model>/<system>/posteriors.json               the kernels' covariances, with sample.log_density: path


rule sample:
    """Reverse diffusion; the seed comes from the model's seed, its name and the system."""
    input:
        model=RUN.model,
        record=RUN.model_record,
        topology="<results>/dataset/{system}/topology.pdb",
    output:
        conformers="<results>/sample/{model}/{system}/conformers.dcd",
        topology="<results>/sample/{model}/{system}/topology.pdb",
        record="<results>/sample/{model}/{system}/conformers.json",
        from_noise="<results>/sample/{model}/{system}/reverse.dcd",
        densities=RUN.sampled_densities(),
    log:
        "<results>/logs/sample/{model}/{system}.log",
    benchmark:
        "<results>/benchmarks/sample/{model}/{system}.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: RUN.path_threads
    params:
        settings=RUN.settings("sample"),
        code=RUN.code("sample"),
        seed=RUN.sample_seed,
    message:
        "sample: {wildcards.system} from {wildcards.model}"
    shell:
        "python -m ancdiff sample --settings - --model {input.model} --topology {input.topology}"
        " --output {output.conformers} --seed {params.seed} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
