"""Work through files of any size: recommendations for all users, vectors and SIDs of all items."""
