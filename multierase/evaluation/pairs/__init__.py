"""Blind pairs: people say whether a sixth picture belongs to five others.

This is the user study of ESD (arXiv 2303.07345, section 5.1.2): five pictures of an artist, a
sixth from another source, and a five-point scale of how sure one is that the same artist made it.
Judges that are classifiers count what they were taught; people also see what they were not.

It is blind, because whoever knows which pictures come from the erased model finds what he expects.
So nothing that is shown depends on the source of the sixth picture: a question's id is its place
in a shuffled list, prompts and seeds are hidden, each source is asked with the same sentences, and
no seed is used twice, or a participant would know a picture again by its composition.
"""
