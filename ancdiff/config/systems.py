"""What a run is about: molecules by sequence or graph, own trajectories, points, exact systems, sets of compounds."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ancdiff.config.base import Basin, Count, Kelvin, Law, NonNegative, Positive, Potential, Section, Seed, Vector
from ancdiff.exact_systems import check_parameters, n_wells
from ancdiff.sequences import check_sequence


class CompoundSettings(Section):
    """A set of many different small molecules with one geometry each (QM9), to learn from and to generate like."""

    source: str = Field(description="archive of xyz files (.tar, .tar.bz2 …) or SDF")
    excluded: str | None = Field(
        default=None, description="list of compounds to leave out: lines that start with their numbers"
    )
    download: bool = Field(
        default=False, description="fetch QM9's own files to these two paths where they are not there"
    )
    shares: tuple[Count, Count, Count] = Field(
        default=(100_000, 17_748, 13_083), description="of training, validation and test; just these of all of QM9"
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="0: the split of EDM")


class PointsSettings(Section):
    """Clouds of points drawn independently from a law; lengths but `length_nm` are reduced (1 is `length_nm`)."""

    law: Law
    n_points: Annotated[int, Field(ge=2, le=9999)] = 24
    n_clouds: Annotated[int, Field(ge=2)] = Field(default=2000, description="to learn from; as many are held out")
    means: Annotated[tuple[Vector, ...], Field(min_length=2, max_length=2)] = Field(
        default=((-2.0, 0.0, 0.0), (2.0, 0.0, 0.0)), description="mixture: means of its two unit Gaussians, half each"
    )
    radius: Positive = Field(default=2.0, description="of the sphere, of the helix, of the torus' middle circle")
    tube_radius: Positive = Field(default=0.7, description="torus: of its tube; below radius")
    pitch: Positive = Field(default=1.5, description="helix: rise of a turn")
    turns: Positive = Field(default=2.0, description="helix: how many")
    jitter: NonNegative = Field(default=0.1, description="sphere, helix, torus: standard deviation about the shape")
    length_nm: Positive = Field(default=0.1, description="nm in one reduced length")
    seed: Seed = 2026

    @model_validator(mode="after")
    def _own_parameters(self) -> "PointsSettings":
        own = {"mixture": {"means"}, "sphere": {"radius", "jitter"}, "helix": {"radius", "pitch", "turns", "jitter"}}
        own["torus"] = {"radius", "tube_radius", "jitter"}
        foreign = set.union(*own.values()) - own[self.law]
        # A dump of the settings has every key; one that says what the default says changes nothing.
        changed = [k for k in sorted(foreign) if getattr(self, k) != type(self).model_fields[k].default]
        if changed:
            raise ValueError(
                f"law '{self.law}' has no {', '.join(changed)}; it has: {', '.join(sorted(own[self.law]))}"
            )
        if self.law == "torus" and self.tube_radius >= self.radius:
            raise ValueError("'tube_radius' must be below 'radius'")
        return self


class ExactSettings(Section):
    """Identical particles with an exact energy in reduced units: kT = 1 at 300 K, 1 length is `length_nm`."""

    potential: Potential
    parameters: dict[str, float] = Field(default_factory=dict, description="instead of the literature's")
    length_nm: Positive = Field(default=0.1, description="nm in one reduced length")
    training_frames: Annotated[int, Field(ge=2)] = Field(default=4000, description="to learn from")
    training_shares: tuple[NonNegative, ...] = Field(
        default=(), description="share of each well in the training data; double_well: short, long; dw4: 0 … 6 long"
    )
    training_kelvin: Kelvin | None = Field(
        default=None, description="temperature of the training data; null: forcefield.temperature_kelvin"
    )

    @model_validator(mode="after")
    def _known_parameters(self) -> "ExactSettings":
        check_parameters(self.potential, self.parameters)
        wells = n_wells(self.potential)
        if self.training_shares and (len(self.training_shares) != wells or not sum(self.training_shares) > 0):
            one = "one share, of its only well" if wells == 1 else f"{wells} shares, not all 0"
            raise ValueError(f"'training_shares' of '{self.potential}': give {one}, or leave it out")
        return self


class ConformerSettings(Section):
    """A small molecule with all its atoms, of which `simulate` makes conformers: by SMILES, or out of a file."""

    smiles: str | None = Field(default=None, description="e.g. CC(=O)OCC; hydrogens are added")
    file: str | None = Field(default=None, description="SDF or MOL file, or an archive of xyz files (QM9)")
    record: Count = Field(default=1, description="which one of the file, from 1; of an archive: its number (gdb_7: 7)")

    @model_validator(mode="after")
    def _one_molecule(self) -> "ConformerSettings":
        if (self.smiles is None) == (self.file is None):
            raise ValueError("give either 'smiles' or 'file' (with 'record')")
        if self.file is None and self.record != 1:
            raise ValueError("'record' goes with 'file'")
        return self


class SystemSettings(Section):
    """One molecule: a sequence or a graph that `simulate` builds, own trajectories, points, or an exact system."""

    sequence: str | None = Field(default=None, description="residue names joined by '-', e.g. ACE-ALA-NME")
    training_basins: dict[Basin, NonNegative] = Field(
        default_factory=dict, description="share of training replicas started in each basin of every residue"
    )
    reference_ns: Positive | None = Field(
        default=None, description="nanoseconds of each reference walker; default simulate.reference.replica_ns"
    )
    topology: str | None = Field(default=None, description="PDB, mmCIF or SDF file of the molecule (own MD)")
    training: tuple[str, ...] = Field(default=(), description="trajectory files to learn from (own MD)")
    reference: tuple[str, ...] = Field(default=(), description="trajectory files to compare with (own MD)")
    points: PointsSettings | None = Field(default=None, description="clouds of points from a law")
    exact: ExactSettings | None = Field(default=None, description="particles with an exact energy")
    conformers: ConformerSettings | None = Field(default=None, description="a small molecule, with conformers to make")
    compounds: CompoundSettings | None = Field(default=None, description="a set of many different molecules")
    split: Literal["train", "test"] = Field(
        default="train", description="test: never seen in training, sampled all the same"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "SystemSettings":
        if self.compounds is not None:
            given = {name for name, value in self.model_dump(exclude_defaults=True).items() if value} - {"compounds"}
            if given:
                raise ValueError(f"'compounds' stands alone: a set of compounds has no {', '.join(sorted(given))}")
            return self
        kinds = ("sequence", "topology", "points", "exact", "conformers")
        origins = [k for k in kinds if getattr(self, k) is not None]
        if len(origins) != 1:
            raise ValueError(
                "give either 'sequence' (built and simulated) or 'topology' with 'training' (own MD), or 'points' "
                "(a law), 'exact' (a potential) or 'conformers' (a small molecule): one of the five, not "
                f"{', '.join(origins) or 'none'}"
            )
        if self.topology is not None and not self.training:
            raise ValueError("'topology' needs 'training': a list of trajectory files")
        if self.topology is None and (self.training or self.reference):
            raise ValueError("'training' and 'reference' are trajectory files: they go with 'topology'")
        if self.sequence is None and (self.training_basins or self.reference_ns):
            raise ValueError("'training_basins' and 'reference_ns' go with 'sequence'")
        if self.sequence is not None:
            check_sequence(self.sequence)
        if self.training_basins and not sum(self.training_basins.values()) > 0:
            raise ValueError("'training_basins' are shares: at least one must be above 0")
        return self
