# report: the whole run on one self-contained page
#   in   evaluate/metrics.parquet, training curves, weights, ensembles, energies; times from benchmarks/
#   out  report.html


rule all:
    """What a run is for."""
    default_target: True
    input:
        report="<results>/report.html",


rule report:
    """Tables, figures and a 3D view in one HTML file that opens offline."""
    input:
        unpack(RUN.report_inputs),
        metrics="<results>/evaluate/metrics.parquet",
        checks="<results>/dataset/checks.json",
    output:
        page=report(
            "<results>/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    params:
        settings=RUN.settings("report"),
        code=code_stamp("ancdiff.report"),
        results=RUN.results,
    threads: 1
    conda:
        "../../envs/ancdiff.yaml"
    shell:
        "python -m ancdiff report --settings - --results {params.results} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
