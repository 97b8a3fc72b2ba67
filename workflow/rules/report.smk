# report: the whole run on one self-contained page
#   in   evaluate/metrics.parquet, training curves, weights, ensembles, energies; times from benchmarks/
#   out  report.html           the page
#        report/figures/*.png  its figures


rule report:
    """Tables, figures and a 3D view in one HTML file that opens offline."""
    input:
        unpack(RUN.report_inputs),
        metrics="<results>/evaluate/metrics.parquet",
        summary="<results>/evaluate/summary.parquet",
        seeds="<results>/evaluate/seeds.parquet",
    output:
        figures=report(
            directory("<results>/report/figures"),
            patterns=["{name}.png"],
            caption="../report/figure.rst",
            category="Figures",
        ),
        page=report(
            "<results>/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: 1
    params:
        settings=RUN.settings("report"),
        code=RUN.code("report"),
        results=RUN.results,
    message:
        "report"
    shell:
        "python -m ancdiff report --settings - --results {params.results} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
