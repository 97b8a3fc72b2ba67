# generate: new compounds from a model of a set of compounds
#   in   pretrain/…/model.safetensors, model.json
#   out  generate/<model>/<system>/evaluations_<n>.safetensors  atoms and positions, with n network evaluations each
#        generate/<model>/<system>/evaluations_<n>.sdf          the same for viewers, with bonds told by distances
#        generate/<model>/<system>/evaluations_<n>.json         what made them


rule generate:
    """Reverse diffusion of positions and atom types; the seed comes from the model's seed, its name and the system."""
    input:
        model=RUN.model,
        record=RUN.model_record,
    output:
        compounds="<results>/generate/{model}/{system}/evaluations_{evaluations}.safetensors",
        sdf="<results>/generate/{model}/{system}/evaluations_{evaluations}.sdf",
        record="<results>/generate/{model}/{system}/evaluations_{evaluations}.json",
    log:
        "<results>/logs/generate/{model}/{system}/evaluations_{evaluations}.log",
    benchmark:
        "<results>/benchmarks/generate/{model}/{system}/evaluations_{evaluations}.tsv"
    wildcard_constraints:
        evaluations="[1-9][0-9]*",
    conda:
        "../../envs/ancdiff.yaml"
    threads: 1
    params:
        settings=RUN.settings("generate"),
        code=RUN.code("generate"),
        seed=RUN.sample_seed,
        compounds=RUN.generate_compounds,
    message:
        "generate: {wildcards.system} from {wildcards.model}, {wildcards.evaluations} evaluations"
    shell:
        "python -m ancdiff generate --settings - --model {input.model} --output {output.compounds}"
        " --evaluations {wildcards.evaluations} --compounds {params.compounds} --seed {params.seed}"
        " --threads {threads} <<< {params.settings:q} > {log} 2>&1"
