"""VisSTG: instances of two frames in one graph, whose nodes are detected and segmented, and whose edges track.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021.
Section and equation numbers are the paper's. A re-implementation without a public reference. Beside the paper open

    config.py       every choice
    grid.py         the cells of all levels of the pyramid in one row
    graph.py        instances of the reference frame and cells of the target, Eq. (1) and (2) (3.2)
    centres.py      CenterNet: heat maps, their targets and losses, and what is read from them (3.3)
    propagation.py  filters of the reference frame, carried to the target (3.4)
    network.py      all of it, from normalised images to maps
    objective.py    what a pair of frames teaches, Eq. (3) to (6) (3.6)
    association.py  which detection continues which track (3.5)
    tracker.py      a frame of each film, a step of its memory (3.6); state.py is that memory
    model.py        the contract: encode, start, step, finish, loss
    rows.py         the rows of its tables

Ours, where the paper is silent or could not be learned as it stands (marked `Ours` where it is decided):

    the graph       a node is the mean of what is cut out under a box; a cell without edges stays what it was; messages
                    as a sum or a mean (`messages`); edges that know how far they reach (`relative_position`)
    detection       which level an object belongs to (`level_px`), group norms in heads (`norm_groups`), CenterNet's
                    Gaussians, weights of size and offset; scores, NMS between levels (`min_score`, `nms_iou`)
    masks           coordinates in the size of a level's objects, as in CondInst; cells around a centre that learn
                    (`centre_cells`), and what: shares of cells (`mask_shares`); offsets of carried filters by two
                    convolutions, attention at one cell
    tracking        edges to objects of an instance's class learn, by true classes, or to any (`same_class`); a track
                    then is of the class that is likeliest in all its sightings; filters that are carried are those of
                    the reference frame's own fused features
    training        weights of the three losses; the reference frame as a film's first one (`learn_reference`)
"""
