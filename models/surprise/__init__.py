"""What is new in front of a camera that moves: the prediction error of the scene, not of the vehicle."""
