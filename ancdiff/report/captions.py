"""What each figure is called, what to see in it, and its text for those who cannot see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """Title, what to see, and alternative text; ``{system}`` and ``{molecule}`` are filled in."""

    title: str
    see: str
    alt: str


CAPTIONS: dict[str, Caption] = {
    "free_energy_per_round": Caption(
        "Error of the basin free energies after each round",
        "RMS over residues and counted basins of F − F(reference), with 95 % bootstrap intervals; round 0 is the "
        "pretrained model. Alignment works where its line falls towards the dashed floor (one half of the "
        "reference against the other) while the control's does not; the dotted line is the training data.",
        "Line plots of the free-energy error in kT against the round of alignment, one line per objective, for "
        "the mean over systems and for each system.",
    ),
    "errors_per_step": Caption(
        "Errors against the exact answer, step by step",
        "Left: error of the wells' free-energy difference, or distance of the energies where there are no wells. "
        "Right: error of the mean energy, which rises when a model leaves the support. Lines are means over seeds, the "
        "band is the floor; the axes are linear up to ±0.5 and logarithmic beyond.",
        "Line plots of the errors of a system with an exact energy in kT against the steps of alignment, one line for "
        "each line of models.",
    ),
    "basin_free_energies": Caption(
        "Free energies of the basins",
        "F = −ln(population) of each residue's basins, with 95 % bootstrap intervals; low is populated. An "
        "aligned model is right where its marker meets the black diamond of the reference.",
        "Dot plots of basin free energies in kT for each residue; one marker per ensemble, with error bars.",
    ),
    "ramachandran": Caption(
        "{system} ({molecule})",
        "Compare the pretrained model with the training data on its left, and the aligned model with the reference "
        "at the right end.",
        "Ramachandran free-energy maps of {system}: φ and ψ in degrees, one column per ensemble, one row per residue.",
    ),
    "energies": Caption(
        "Force-field energies of conformers",
        "Zero is the median of the reference (of the training data where there is none). A model that samples "
        "well lies upon the black line; a tail to the right is strain. Conformers are relaxed first as score.relax "
        "says. Shares beyond the axis are written in the corner.",
        "Histograms of energies in kT for each system, one line per ensemble.",
    ),
    "conformers": Caption(
        "{system}: superposed conformers",
        "Carbon grey, nitrogen blue, oxygen orange; paler is farther. Look for the same fan of "
        "directions as in the reference, and for bonds that do not belong.",
        "Stick drawings of superposed conformers of {system}, one panel per ensemble.",
    ),
    "pair_distances": Caption(
        "Distances of all pairs of particles",
        "The shape's fingerprint, whatever its orientation and order. A model that samples well lies upon the black "
        "line of the held-out data.",
        "Histograms of pair distances in nm for each system, one line per ensemble.",
    ),
    "reverse_path": Caption(
        "{system} ({molecule}): from noise to shape",
        "One sample at falling noise, each panel at its own scale, and beside it one held-out conformer; near "
        "particles are larger and darker. The whole way is reverse.dcd, a movie for PyMOL or VMD.",
        "Scatter drawings of one conformer of {system} at falling noise, from a ball of noise to the sample.",
    ),
    "pretraining": Caption(
        "Pretraining",
        "Denoising loss on batches of training frames (pale: each record) and on frames kept for validation. A "
        "gap that opens between the two is learning by heart.",
        "Line plot of the denoising loss against the step, logarithmic, with validation points.",
    ),
    "alignment": Caption(
        "Alignment",
        "Loss of each objective, and how far the model's own energy spreads within a group of conformers; grey "
        "lines part the rounds. A spread that keeps growing warns that samples are about to go bad. Dotted: the "
        "standard error of a difference of two such energies, from the noise that estimates them; where it is as large "
        "as the spread, a single group says little.",
        "Line plots against the step of alignment: the loss of each objective, and the spread of the model's "
        "energy in nats with the error of its differences.",
    ),
    "effective_sample_sizes": Caption(
        "Effective sample sizes",
        "How many conformers of each system's pool carry the Boltzmann weight, 1/Σw²; dashed: all of the pool. "
        "Near one, a single conformer decides.",
        "Line plot of the effective sample size of each system's pool against the round, logarithmic.",
    ),
    "compound_quality": Caption(
        "Quality against network evaluations",
        "Shares with 95 % intervals; dashed lines are what the data's own test part scores by the same rules, which a "
        "perfect model would reach.",
        "Stability of atoms and of compounds, validity and uniqueness against the number of network evaluations.",
    ),
    "compound_lengths": Caption(
        "Bond lengths",
        "The most frequent kinds of bond. A good model lies upon the black line of the training part; a wider peak is "
        "noise that was left.",
        "Histograms of bond lengths of generated compounds and of the training part, one panel for each kind of bond.",
    ),
    "compound_gallery": Caption(
        "Generated compounds",
        "The first ones, not chosen; bonds are told by distances. Atoms with a ring have another number of bonds than "
        "their valence.",
        "Stick drawings of generated compounds; carbon grey, nitrogen blue, oxygen red, hydrogen light.",
    ),
    "compound_training": Caption(
        "Training",
        "Loss of each step (averaged over a fiftieth of them) and of the validation part under the averaged weights.",
        "Line plot of the training and validation loss against the step.",
    ),
}
