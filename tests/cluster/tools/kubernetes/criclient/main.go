// Command criclient asks one node's container runtime for the few things that raising and lowering a cluster needs:
//
//	criclient SOCKET pull IMAGE...   pull images through the runtime, missing layers only
//	criclient SOCKET images          one line an image: its id, then its tags
//	criclient SOCKET prune IMAGE...  remove every image that holds none of these tags
//	criclient SOCKET stop            stop and remove every pod of the node
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

// A trainer image holds gigabytes; unpacking it on a busy machine takes minutes.
const imageTimeout = 15 * time.Minute

const podTimeout = 30 * time.Second

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: criclient SOCKET pull|images|prune|stop [IMAGE...]")
		os.Exit(2)
	}
	if err := run(context.Background(), "unix://"+os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "criclient:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, endpoint, verb string, names []string) error {
	if verb == "stop" {
		return stopPods(ctx, endpoint)
	}
	images, err := cri.NewRemoteImageService(endpoint, imageTimeout, nil, nil)
	if err != nil {
		return err
	}
	switch verb {
	case "pull":
		for _, name := range names {
			id, err := images.PullImage(ctx, &runtimeapi.ImageSpec{Image: name}, nil, nil)
			if err != nil {
				return fmt.Errorf("pull %s: %w", name, err)
			}
			fmt.Println(id, name)
		}
		return nil
	case "images":
		return listImages(ctx, images)
	case "prune":
		return pruneImages(ctx, images, names)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func listImages(ctx context.Context, images internalapi.ImageManagerService) error {
	held, err := images.ListImages(ctx, nil)
	if err != nil {
		return err
	}
	for _, image := range held {
		fmt.Println(image.Id, strings.Join(image.RepoTags, " "))
	}
	return nil
}

func pruneImages(ctx context.Context, images internalapi.ImageManagerService, keep []string) error {
	held, err := images.ListImages(ctx, nil)
	if err != nil {
		return err
	}
	for _, image := range held {
		kept := slices.ContainsFunc(image.RepoTags, func(tag string) bool { return slices.Contains(keep, tag) })
		if kept {
			continue
		}
		if err := images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: image.Id}); err != nil {
			return fmt.Errorf("remove %s: %w", image.Id, err)
		}
		fmt.Println(image.Id)
	}
	return nil
}

func stopPods(ctx context.Context, endpoint string) error {
	pods, err := cri.NewRemoteRuntimeService(endpoint, podTimeout, nil, nil)
	if err != nil {
		return err
	}
	sandboxes, err := pods.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	var failures []error
	for _, sandbox := range sandboxes {
		if err := errors.Join(pods.StopPodSandbox(ctx, sandbox.Id), pods.RemovePodSandbox(ctx, sandbox.Id)); err != nil {
			failures = append(failures, fmt.Errorf("pod %s/%s: %w", sandbox.Metadata.Namespace, sandbox.Metadata.Name, err))
		}
	}
	return errors.Join(failures...)
}
